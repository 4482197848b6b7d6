"""How well the model reads the images: before SFT, after SFT and after PPO."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rl4vlm.figures import panels
from rl4vlm.figures.style import FigureStyle, Sheet
from rl4vlm.results.collection import Results
from rl4vlm.results.rows import perception_rows
from rl4vlm.results.tables import BASE_GAMES

STAGES = {"base model": "before SFT", "LLaVA-sft": "after SFT", "RL4VLM": "after PPO"}


def figure(results: Results, scale: str, style: FigureStyle) -> Figure:
    """Draw bars of how often each field was read right, by task, field and stage."""
    rows = perception_rows(results, scale)
    rows = rows[rows["method"].isin(list(STAGES))]
    tasks = list(rows["task"].unique())
    if rows.empty:
        return panels.empty(style, scale, "no perception was measured")
    note = (
        f"Scale: {scale}. How often the model reads a field of the image right. Before SFT it answers the question "
        "what it reads; after SFT and PPO it reads within its replies, in held-out play; those that do not state "
        "the field are left out."
    )
    if any(results.games(task) for task in tasks):
        note += f" {BASE_GAMES}"
    sheet = Sheet(style, width=style.panel_width * max(len(tasks), 2), height=style.panel_height + 0.35, note=note)
    titles = [panels.title(results, task) for task in tasks]
    for axis, task in zip(panels.panels(sheet.part, titles, "read right (%)", ""), tasks, strict=True):
        draw_fields(axis, rows[rows["task"] == task], style)
    sheet.legend()
    return sheet.figure


def draw_fields(axis: Axes, rows: pd.DataFrame, style: FigureStyle) -> None:
    """Draw the bars of a task: `rows` has the columns method, field, accuracy (in percent)."""
    names = list(rows["field"].unique())
    width = 0.8 / len(STAGES)
    # Smaller where bars are narrow, or "100" beside "100" would overlap.
    size = style.font_size - (2 if len(names) < 3 else 3.5)
    for place, (method, stage) in enumerate(STAGES.items()):
        found = rows[rows["method"] == method]
        # A field that no reply states has no bar.
        for name, accuracy in found.dropna(subset="accuracy")[["field", "accuracy"]].itertuples(index=False):
            x = names.index(name) + (place - (len(STAGES) - 1) / 2) * width
            axis.bar(x, accuracy, 0.92 * width, color=style.colour(method), label=stage)
            axis.text(x, accuracy + 1.5, f"{accuracy:.0f}", ha="center", fontsize=size)
    axis.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(0, 108)
    axis.set_yticks(range(0, 101, 25))
    axis.tick_params(axis="x", length=0)

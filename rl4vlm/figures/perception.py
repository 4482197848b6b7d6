"""How well the model reads the pictures: before SFT, after SFT and after PPO."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rl4vlm.figures import panels
from rl4vlm.figures.style import FigureStyle, Sheet
from rl4vlm.results.read import Results
from rl4vlm.results.tables import BASE_GAMES, PerceptionRow, perception_rows

STAGES = {"base model": "before SFT", "LLaVA-sft": "after SFT", "RL4VLM": "after PPO"}


def figure(results: Results, scale: str, style: FigureStyle) -> Figure:
    """Draw it: bars of the share of right readings, by task, field and stage."""
    rows = [row for row in perception_rows(results, scale) if row.method in STAGES]
    tasks = list(dict.fromkeys(row.task for row in rows))
    if not rows:
        return panels.empty(style, scale, "no reading was measured")
    note = (
        f"Scale: {scale}. Share of a picture's fields that the model reads right. Before SFT it answers what it is "
        "asked to read; after SFT and PPO it reads within its replies, in held-out play."
    )
    if any(results.games(task) for task in tasks):
        note += f" {BASE_GAMES}"
    sheet = Sheet(style, width=style.panel_width * max(len(tasks), 2), height=style.panel_height + 0.35, note=note)
    titles = [panels.title(results, task) for task in tasks]
    for axis, task in zip(panels.panels(sheet.part, titles, "read right (%)", ""), tasks, strict=True):
        _panel(axis, [row for row in rows if row.task == task], style)
    sheet.legend()
    return sheet.figure


def _panel(axis: Axes, rows: list[PerceptionRow], style: FigureStyle) -> None:
    names = list(dict.fromkeys(row.field for row in rows))
    width = 0.8 / len(STAGES)
    for place, (method, stage) in enumerate(STAGES.items()):
        for row in rows:
            if row.method == method:
                x = names.index(row.field) + (place - (len(STAGES) - 1) / 2) * width
                axis.bar(x, row.accuracy, 0.92 * width, color=style.colour(method), label=stage)
                axis.text(x, row.accuracy + 1.5, f"{row.accuracy:.0f}", ha="center", fontsize=style.font_size - 2)
    axis.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(0, 108)
    axis.set_yticks(range(0, 101, 25))
    axis.tick_params(axis="x", length=0)

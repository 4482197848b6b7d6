"""The paper's table 1 as a figure: how a reply's log-probability is shared by its thoughts and its action."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rl4vlm.figures import panels
from rl4vlm.figures.style import FigureStyle, Sheet
from rl4vlm.results.collection import Results
from rl4vlm.results.read import Evaluation

STAGES = {"LLaVA-sft": ("after SFT", "s"), "RL4VLM": ("after PPO", "o")}
FLOOR = 1e-4
"""In nats. Smaller magnitudes are drawn here, since a logarithmic axis has no zero; their labels give the value."""


def figure(results: Results, scale: str, style: FigureStyle) -> Figure:
    """Draw one line per task and stage, with the magnitudes of thoughts and action on a logarithmic axis."""
    rows = [
        (task, method, found)
        for task in results.tasks
        for method in STAGES
        if (found := _measured(results.main_evaluations(method, task)))
    ]
    if not rows:
        return panels.empty(style, scale, "no evaluation with log-probabilities")
    note = (
        f"Scale: {scale}. |Σ log p| of a reply's thought tokens and of its action tokens at the sampling temperature, "
        "mean over the steps of held-out episodes."
    )
    sheet = Sheet(style, width=2.3 * style.panel_width, height=0.27 * max(len(rows), 3) + 0.6, note=note)
    axis = sheet.part.subplots()
    for place, (_, method, runs) in enumerate(rows):
        _row(axis, place, method, runs, style)
    names = [panels.title(results, task, f", {STAGES[method][0]}") for task, method, _ in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xscale("log")
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")
    axis.margins(x=0.12)
    axis.set_xlabel("|Σ log p| (nats)")
    sheet.legend()
    return sheet.figure


def _measured(runs: Sequence[Evaluation]) -> list[Evaluation]:
    return [run for run in runs if run.logprob_thoughts is not None and run.logprob_action is not None]


def _row(axis: Axes, place: int, method: str, runs: Sequence[Evaluation], style: FigureStyle) -> None:
    thoughts = sum(abs(run.logprob_thoughts or 0.0) for run in runs) / len(runs)
    action = sum(abs(run.logprob_action or 0.0) for run in runs) / len(runs)
    axis.plot([max(action, FLOOR), max(thoughts, FLOOR)], [place, place], color="#cccccc", linewidth=1.0, zorder=1)
    for name, value, other in (("thoughts", thoughts, action), ("action", action, thoughts)):
        axis.plot(max(value, FLOOR), place, STAGES[method][1], color=style.colour(name), label=name, zorder=3)
        # The smaller value has its label on the left and the larger one on the right, so the labels never overlap.
        right = value > other or (value == other and name == "thoughts")
        axis.annotate(
            f"{value:.2g}",
            (max(value, FLOOR), place),
            xytext=(1.0 if right else -1.0, 3.5),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom",
            fontsize=style.font_size - 2,
            color=style.colour(name),
        )

"""The paper's figure 6: learning with and without chain of thought."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rl4vlm.figures import panels
from rl4vlm.figures.style import FigureStyle
from rl4vlm.results.collection import Results

METHODS = ("RL4VLM", "RL4VLM-noCoT")
STARTS = {"RL4VLM": "LLaVA-sft", "RL4VLM-noCoT": "LLaVA-sft-noCoT"}
FIGURES = {"RL4VLM": "main", "RL4VLM-noCoT": "cot"}
"""The published figure that each method's curve was read off, as `Curve.figure` names it."""


def figure(results: Results, scale: str, style: FigureStyle) -> Figure:
    """Draw the tasks that were trained without chain of thought."""
    tasks = [task for task in results.tasks if results.main_runs("RL4VLM-noCoT", task)]
    if not tasks:
        return panels.empty(style, scale, "no training run without chain of thought")
    return panels.curves(results, tasks, METHODS, scale, style, _panel)


def _panel(axis: Axes, results: Results, task: str, style: FigureStyle) -> None:
    end = panels.last_step(run for method in METHODS for run in results.main_runs(method, task))
    for place, method in enumerate(METHODS):
        colour = style.colour(method)
        panels.training_curve(axis, results.main_runs(method, task), colour, f"{method}, training", style)
        panels.validation_points(axis, results.main_runs(method, task), colour, f"{method}, validation")
        curve = f"{method}, published curve"
        panels.published_curve(axis, results, FIGURES[method], task, method, curve, end, colour, style)
        start = results.main_evaluations(STARTS[method], task)
        panels.held_out_point(axis, start, (-0.04 - 0.06 * place) * end, colour, f"{STARTS[method]}, held out", "s")
        final = results.main_evaluations(method, task)
        panels.held_out_point(axis, final, (1.04 + 0.06 * place) * end, colour, f"{method}, held out")
    panels.published_lines(axis, results, task, METHODS, style)
    panels.reference_lines(axis, results, task, style)
    panels.steps_axis(axis)
    panels.percent_axis(axis)
    axis.set_xlim(-0.15 * end, 1.15 * end)

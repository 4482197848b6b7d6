"""The paper's figure 5: success during training, task by task, beside other methods."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rl4vlm.figures import panels
from rl4vlm.figures.style import FigureStyle
from rl4vlm.results.collection import Results

TRAINED = ("RL4VLM", "CNN+RL")
PUBLISHED = ("RL4VLM", "LLaVA-sft", "CNN+RL", "GPT4-V", "Gemini")


def figure(results: Results, scale: str, style: FigureStyle) -> Figure:
    """Draw every task with a training run. A method that was not run is absent."""
    tasks = [task for task in results.tasks if any(results.main_runs(method, task) for method in TRAINED)]
    if not tasks:
        return panels.empty(style, scale, "no training run")
    return panels.curves(results, tasks, TRAINED, scale, style, _panel)


def _panel(axis: Axes, results: Results, task: str, style: FigureStyle) -> None:
    methods = [method for method in TRAINED if results.main_runs(method, task)]
    end = panels.last_step(run for method in methods for run in results.main_runs(method, task))
    for method in methods:
        colour = style.colour(method)
        panels.training_curve(axis, results.main_runs(method, task), colour, f"{method}, training", style)
        panels.validation_points(axis, results.main_runs(method, task), colour, f"{method}, validation")
        curve = f"{method}, published curve"
        panels.published_curve(axis, results, "main", task, method, curve, end, colour, style)
    start = results.main_evaluations("LLaVA-sft", task)
    panels.held_out_point(axis, start, -0.03 * end, style.colour("LLaVA-sft"), "LLaVA-sft (start), held out", "s")
    for place, method in enumerate(methods):
        final = results.main_evaluations(method, task)
        panels.held_out_point(axis, final, (1.04 + 0.05 * place) * end, style.colour(method), f"{method}, held out")
    # Show the published CNN+RL line only beside a reproduced curve of CNN+RL.
    shown = [method for method in PUBLISHED if method != "CNN+RL" or method in methods]
    panels.published_lines(axis, results, task, shown, style)
    panels.reference_lines(axis, results, task, style)
    panels.steps_axis(axis)
    panels.percent_axis(axis)
    axis.set_xlim(-0.07 * end, (1.09 + 0.05 * len(methods)) * end)

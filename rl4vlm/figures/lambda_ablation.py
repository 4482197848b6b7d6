"""The paper's figure 7: how much the thoughts weigh in an action's log-probability."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rl4vlm.figures import panels
from rl4vlm.figures.style import FigureStyle, Sheet
from rl4vlm.results.published import PAPER, published_lambda_peaks
from rl4vlm.results.read import Results, Run

METHOD = "RL4VLM"


def figure(results: Results, scale: str, style: FigureStyle) -> Figure:
    """Draw it: for each task trained with several λ, the learning curves and, beside them, the held-out rates by λ."""
    tasks = [task for task in results.tasks if len(results.lambdas(task)) > 1]
    if not tasks:
        return panels.empty(style, scale, "no task was trained with more than one λ")
    published = f"Diamonds: peaks of the published curves ({PAPER}, 7B), read by eye, good to 1.5 points."
    note = panels.curve_note(results, scale, style, published)
    width = 1.5 * style.panel_width * 2 * len(tasks)
    sheet = Sheet(style, width=width, height=style.panel_height + 0.6, note=note)
    titles = [panels.title(results, task, more) for task in tasks for more in ("", ", held out")]
    axes = panels.panels(sheet.part, titles, "success rate (%)", "environment steps")
    for place, task in enumerate(tasks):
        curves, rates = axes[2 * place : 2 * place + 2]
        _curves(curves, results, task, style)
        _rates(rates, results, task, style)
        rates.sharey(curves)
    sheet.legend()
    return sheet.figure


def _curves(axis: Axes, results: Results, task: str, style: FigureStyle) -> None:
    weights = results.lambdas(task)
    for weight, colour in zip(weights, style.lambda_colours(len(weights)), strict=True):
        runs = _with(results.training_runs, task, weight)
        panels.training_curve(axis, runs, colour, f"λ = {weight:g}", style)
        end = panels.last_step(runs)
        method = f"{METHOD} lambda={weight:g}"
        panels.published_curve(axis, results, "lambda", task, method, "published curves", end, colour, style)
    panels.reference_lines(axis, results, task, style)
    panels.steps_axis(axis)
    panels.percent_axis(axis)
    axis.set_xlim(left=0)


def _rates(axis: Axes, results: Results, task: str, style: FigureStyle) -> None:
    weights = results.lambdas(task)
    for weight, colour in zip(weights, style.lambda_colours(len(weights)), strict=True):
        runs = _with(results.evaluations, task, weight)
        panels.held_out_point(axis, runs, weight, colour, f"λ = {weight:g}")
    published = [
        (weight, rate.success_rate)
        for weight in weights
        for rate in published_lambda_peaks()
        if (rate.task, rate.method) == (task, f"{METHOD} lambda={weight:g}")
    ]
    beside = 0.03 * (weights[-1] - weights[0])
    axis.plot(
        [weight + beside for weight, _ in published],
        [rate for _, rate in published],
        linestyle="none",
        marker="D",
        markerfacecolor="none",
        markeredgecolor="#555555",
        markeredgewidth=0.8,
        label="published peak (by eye)",
    )
    start = results.headline_evaluations("LLaVA-sft", task)
    panels.reference_lines(axis, results, task, style)
    if start:
        rate = sum(run.success_rate for run in start) / len(start)
        axis.axhline(
            rate, color=style.colour("LLaVA-sft"), linewidth=0.9, label="LLaVA-sft (start), held out", zorder=1
        )
    axis.set_xticks(weights, [f"{weight:g}" for weight in weights])
    margin = 0.15 * (weights[-1] - weights[0])
    axis.set_xlim(weights[0] - margin, weights[-1] + margin)
    axis.set_xlabel("λ, weight of the thoughts")


def _with(runs: Iterable[Run], task: str, weight: float) -> list[Run]:
    return [run for run in runs if (run.task, run.method, run.thought_prob_coef) == (task, METHOD, weight)]

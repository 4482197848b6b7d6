"""The paper's figure 7: learning under several λ, the weight of the thoughts' log-probability (equation 4)."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rl4vlm.figures import panels
from rl4vlm.figures.style import FigureStyle, Sheet
from rl4vlm.results.collection import Results
from rl4vlm.results.published import PAPER, published_lambda_peaks
from rl4vlm.results.read import Run

METHOD = "RL4VLM"


def figure(results: Results, scale: str, style: FigureStyle) -> Figure:
    """Draw a row for each task that was trained with several λ: its learning curves, and its held-out rates by λ."""
    tasks = [task for task in results.tasks if len(results.lambdas(task)) > 1]
    if not tasks:
        return panels.empty(style, scale, "no task was trained with more than one λ")
    published = f"Diamonds: peaks of the published curves ({PAPER}, 7B), read by eye, good to 1.5 points."
    shown = [
        run for task in tasks for value in results.lambdas(task) for run in _with(results.training_runs, task, value)
    ]
    note = panels.curve_note(results, shown, scale, style, published, validation=False)
    width, height = 1.5 * style.panel_width * 2, (style.panel_height + 0.6) * len(tasks)
    sheet = Sheet(style, width=width, height=height, note=note)
    titles = [panels.title(results, task, more) for task in tasks for more in ("", ", held out")]
    axes = panels.panels(sheet.part, titles, "success rate (%)", "environment steps", rows=len(tasks))
    for place, task in enumerate(tasks):
        curves, rates = axes[2 * place : 2 * place + 2]
        _curves(curves, results, task, style)
        _rates(rates, results, task, style)
        rates.sharey(curves)
    sheet.legend()
    return sheet.figure


def _curves(axis: Axes, results: Results, task: str, style: FigureStyle) -> None:
    for thought_prob_coef, colour in _coloured(results, task, style):
        runs = _with(results.training_runs, task, thought_prob_coef)
        panels.training_curve(axis, runs, colour, f"λ = {thought_prob_coef:g}", style)
        end = panels.last_step(runs)
        method = f"{METHOD} lambda={thought_prob_coef:g}"
        panels.published_curve(axis, results, "lambda", task, method, "published curves", end, colour, style)
    panels.reference_lines(axis, results, task, style)
    panels.steps_axis(axis)
    panels.percent_axis(axis)
    axis.set_xlim(left=0)


def _rates(axis: Axes, results: Results, task: str, style: FigureStyle) -> None:
    lambdas = results.lambdas(task)
    for thought_prob_coef, colour in _coloured(results, task, style):
        # Episodes of other sets of games do not belong to the same rate.
        played = [run for run in results.evaluations if run.on_main_games]
        runs = _with(played, task, thought_prob_coef)
        panels.held_out_point(axis, runs, thought_prob_coef, colour, f"λ = {thought_prob_coef:g}")
    published = [
        (thought_prob_coef, rate.success_rate)
        for thought_prob_coef in lambdas
        for rate in published_lambda_peaks()
        if (rate.task, rate.method) == (task, f"{METHOD} lambda={thought_prob_coef:g}")
    ]
    # A little to the right, so that the diamonds do not cover the points.
    beside = 0.03 * (lambdas[-1] - lambdas[0])
    axis.plot(
        [thought_prob_coef + beside for thought_prob_coef, _ in published],
        [rate for _, rate in published],
        linestyle="none",
        marker="D",
        markerfacecolor="none",
        markeredgecolor="#555555",
        markeredgewidth=0.8,
        label="published peak (by eye)",
    )
    start = results.main_evaluations("LLaVA-sft", task)
    panels.reference_lines(axis, results, task, style)
    if start:
        rate = sum(run.success_rate for run in start) / len(start)
        axis.axhline(
            rate, color=style.colour("LLaVA-sft"), linewidth=0.9, label="LLaVA-sft (start), held out", zorder=1
        )
    axis.set_xticks(lambdas, [f"{thought_prob_coef:g}" for thought_prob_coef in lambdas])
    margin = 0.15 * (lambdas[-1] - lambdas[0])
    axis.set_xlim(lambdas[0] - margin, lambdas[-1] + margin)
    axis.set_xlabel("λ, weight of the thoughts")


def _coloured(results: Results, task: str, style: FigureStyle) -> list[tuple[float, panels.Colour]]:
    """Every λ of a task with its colour."""
    lambdas = results.lambdas(task)
    return list(zip(lambdas, style.lambda_colours(len(lambdas)), strict=True))


def _with(runs: Iterable[Run], task: str, thought_prob_coef: float) -> list[Run]:
    return [run for run in runs if (run.task, run.method, run.thought_prob_coef) == (task, METHOD, thought_prob_coef)]

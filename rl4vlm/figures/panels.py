"""What figures of learning curves share: one panel per task, curves with bands, held-out points, reference lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rl4vlm.config.methods import METHODS, label_of, rank
from rl4vlm.figures.style import FigureStyle, Sheet
from rl4vlm.results.collection import Results
from rl4vlm.results.intervals import rate_interval
from rl4vlm.results.published import PAPER, Rate, published_curves, published_rates
from rl4vlm.results.read import CurvePoint, Evaluation, TrainingRun

PUBLISHED_NOTE = f"Dashed: published, {PAPER} (RL4VLM and LLaVA-sft: 7B), by the paper's protocol."
OFFICIAL = "official games"
"""`Results.games` of the benchmark itself: its own games in its own images, as in the paper."""
Colour = str | tuple[float, float, float]
TITLE_LETTERS = 26
"""About how many letters of a title fit above a panel; longer titles are broken."""
NOT_IN_PAPER = ("Points24",)
"""Tasks without training curves in the paper."""
DASHES = ((0, (1, 1.5)), (0, (3, 1.5, 1, 1.5, 1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 3)), (0, (8, 2)))
"""Line styles of the scripted policies, in turn."""


def panels(part: SubFigure, titles: Sequence[str], y_label: str, x_label: str, rows: int = 1) -> list[Axes]:
    """One panel per title, row by row; the first one of each row has the y label."""
    grid = part.subplots(rows, len(titles) // rows, squeeze=False)
    axes = list(grid.flat)
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title("\n".join(_fitting(line) for line in title.split("\n")))
        axis.set_xlabel(x_label)
    for first in grid[:, 0]:
        first.set_ylabel(y_label)
    return axes


def _fitting(line: str) -> str:
    """A line of a title, broken at its commas if it is wider than a panel."""
    return line if len(line) <= TITLE_LETTERS else line.replace(", ", ",\n")


def curves(
    results: Results,
    tasks: Sequence[str],
    methods: Sequence[str],
    scale: str,
    style: FigureStyle,
    draw: Callable[[Axes, Results, str, FigureStyle], None],
) -> Figure:
    """A figure of success over environment steps, with one panel per task, in which `draw` shows runs of `methods`."""
    runs = [run for task in tasks for method in methods for run in results.main_runs(method, task)]
    note = curve_note(results, runs, scale, style, PUBLISHED_NOTE, validation=True)
    sheet = Sheet(style, width=style.panel_width * max(len(tasks), 2), height=style.panel_height + 0.4, note=note)
    titles = [title(results, task, " (extra)" if task in NOT_IN_PAPER else "") for task in tasks]
    for axis, task in zip(panels(sheet.part, titles, "success rate (%)", "environment steps"), tasks, strict=True):
        draw(axis, results, task, style)
    sheet.legend()
    return sheet.figure


def title(results: Results, task: str, more: str = "") -> str:
    """Title of a panel or a line: the task, `more` about it, and which games it is about if they are data."""
    games = results.games(task)
    return f"{task}{more}\n({games})" if games else f"{task}{more}"


def percent_axis(axis: Axes) -> None:
    """Let y run from a little below 0 to a little above the highest thing drawn, at most a little above 100."""
    top = axis.dataLim.y1 if np.isfinite(axis.dataLim.y1) else 100.0
    top = min(max(top, 10.0), 100.0)
    axis.set_ylim(-0.04 * top, 1.06 * top)
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def steps_axis(axis: Axes) -> None:
    """Write x in environment steps, thousands as k."""
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    )


def training_curve(axis: Axes, runs: Sequence[TrainingRun], colour: Colour, label: str, style: FigureStyle) -> None:
    """Draw the rolling success of a method over environment steps, with a band; nothing without a curve.

    The line is the mean over seeds at the steps that all of them have, the band its 95 % interval over seeds and the
    episodes of their windows.
    """
    steps, middle, low, high = _over_seeds([run.curve for run in runs if run.curve], same_episodes=False)
    if not len(steps):
        return
    sns.lineplot(x=steps, y=middle, ax=axis, color=colour, label=label, errorbar=None, legend=False, zorder=3)
    axis.fill_between(steps, low, high, color=colour, alpha=style.band_alpha, linewidth=0, zorder=2)


def validation_points(axis: Axes, runs: Sequence[TrainingRun], colour: Colour, label: str) -> None:
    """Draw success on the validation episodes over environment steps, seeds pooled, with 95 % intervals."""
    steps, middle, low, high = _over_seeds([run.validation for run in runs if run.validation], same_episodes=True)
    if len(steps):
        axis.errorbar(
            steps,
            middle,
            yerr=[np.maximum(middle - low, 0), np.maximum(high - middle, 0)],
            fmt="^",
            color=colour,
            markerfacecolor="white",
            elinewidth=0.6,
            label=label,
            zorder=4,
        )


def _over_seeds(
    curves: Sequence[Sequence[CurvePoint]], *, same_episodes: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The mean over curves and its 95 % interval, at the steps that all curves have.

    Args:
        curves: one per training seed.
        same_episodes: whether all seeds played the same episodes. A curve says how many were won, but not which. Then
            it is assumed that a seed with fewer wins won none that the others lost, which gives the widest interval.

    Returns:
        Environment steps, means and the lower and upper ends of the intervals, each (points,); rates in percent.
    """
    by_step = [{point.env_steps: point for point in curve} for curve in curves]
    steps = sorted(set.intersection(*map(set, by_step))) if by_step else []
    found = [[points[step] for points in by_step] for step in steps]
    middle = [np.mean([point.success_rate for point in points]) for points in found]
    outcomes = [
        [
            {(0 if same_episodes else seed, place): int(place < point.counts[0]) for place in range(point.window)}
            for seed, point in enumerate(points)
        ]
        for points in found
    ]
    intervals = np.array([rate_interval(seeds) for seeds in outcomes]).reshape(-1, 2)
    return np.array(steps, dtype=float), np.array(middle), intervals[:, 0], intervals[:, 1]


def held_out_point(
    axis: Axes, runs: Sequence[Evaluation], x: float, colour: Colour, label: str, marker: str = "o"
) -> None:
    """Draw a held-out success rate with its 95 % interval, training seeds pooled; nothing without evaluations."""
    if not runs:
        return
    rate = 100 * sum(run.successes for run in runs) / sum(run.episodes for run in runs)
    low, high = rate_interval([run.won for run in runs])
    axis.errorbar(
        [x],
        [rate],
        yerr=[[max(rate - low, 0)], [max(high - rate, 0)]],
        fmt=marker,
        color=colour,
        elinewidth=0.9,
        capsize=1.8,
        label=label,
        clip_on=False,
        zorder=5,
    )


def as_published(results: Results, task: str) -> bool:
    """Whether a task was played on the paper's own games. Published numbers are drawn only beside such results."""
    return results.games(task) in (None, OFFICIAL)


def published_lines(axis: Axes, results: Results, task: str, methods: Iterable[str], style: FigureStyle) -> None:
    """Draw dashed lines at the paper's rates of `methods` on `task`; none beside results on other games."""
    if not as_published(results, task):
        return
    for method in methods:
        for rate in _of(published_rates(), results.overall_name(task), method):
            axis.axhline(
                rate.success_rate,
                color=style.colour(method),
                linestyle=(0, (4, 2)),
                linewidth=0.9,
                label=f"{method}, published",
                zorder=1,
            )


def reference_lines(axis: Axes, results: Results, task: str, style: FigureStyle) -> None:
    """Draw lines at the rates of the scripted policies: enumerated on the rules if known, otherwise measured here."""
    played = {run.method for run in results.evaluations if run.kind == "scripted"}
    # Of the enumerated policies, some only explain a number: they have no row in `METHODS`, and no line here.
    scripted = played | {rate.method for rate in results.reference_rates() if rate.method in METHODS}
    for method, dashes in zip(sorted(scripted, key=lambda name: rank(name, [*METHODS])), cycle(DASHES), strict=False):
        exact = results.reference_rate(method, task)
        measured = [run.success_rate for run in results.main_evaluations(method, task)]
        for value in (measured if exact is None else [exact])[:1]:
            colour = style.colour(method)
            axis.axhline(value, color=colour, linestyle=dashes, linewidth=0.9, label=label_of(method), zorder=1)


def published_curve(
    axis: Axes,
    results: Results,
    figure: str,
    task: str,
    method: str,
    label: str,
    last_step: float,
    colour: Colour,
    style: FigureStyle,
) -> None:
    """Draw the paper's curve, stretched to end where the reproduced one does.

    It is drawn only if the style asks for it and the task was played on the paper's own games.
    """
    if not style.show_published_curves or not as_published(results, task):
        return
    for curve in published_curves():
        if (curve.figure, curve.task, curve.method) == (figure, task, method):
            steps = np.array(curve.env_steps) * last_step / max(curve.env_steps)
            axis.plot(
                steps,
                curve.success_rates,
                color=colour,
                linestyle=":",
                linewidth=1.0,
                label=label,
                zorder=2,
            )


def last_step(runs: Iterable[TrainingRun]) -> float:
    """Environment steps of the longest run; 1 without any run, so that the axis still has a length."""
    return max((float(point.env_steps) for run in runs for point in run.curve), default=1.0)


def empty(style: FigureStyle, scale: str, what: str) -> Figure:
    """A figure that only says what is missing. Its rule runs even if the config asks for no such runs."""
    sheet = Sheet(style, width=2 * style.panel_width, height=0.6, note=f"Scale: {scale}.")
    axis = sheet.part.subplots()
    axis.set_axis_off()
    axis.text(0.5, 0.5, what, ha="center", va="center", transform=axis.transAxes, color="#555555")
    return sheet.figure


def curve_note(
    results: Results, runs: Sequence[TrainingRun], scale: str, style: FigureStyle, published: str, *, validation: bool
) -> str:
    """The small print of a figure of learning curves: what each mark means and where its number comes from.

    `runs` are those that the figure shows. `published` says which marks are the paper's numbers, `validation` whether
    the figure has `validation_points`.
    """
    seeds = len({run.seed for run in runs})
    windows = sorted({max(point.window for point in run.curve) for run in runs if run.curve})
    episodes = "none yet"
    if windows:
        most = f" to {windows[-1]} of them, depending on the run" if len(windows) > 1 else " of them"
        episodes = f"up to {windows[0]}{most}, fewer early on"
    if style.show_published_curves:
        published += " Dotted curves: the paper's, read by eye, stretched to the length of the run."
    over = f"mean over {seeds} seeds; band: 95 % over seeds and episodes" if seeds > 1 else "one seed; band: 95 %"
    triangles = "Triangles: validation episodes. " if validation else ""
    games = "".join(f"; {task}: {', '.join(sets)} games" for task, sets in _sets_of_games(results, runs).items())
    return (
        f"Scale: {scale}. Lines: success rate over the last training episodes in the order in which they began "
        f"({episodes}; {over}). {triangles}Points: held-out episodes, with 95 % intervals{games}. "
        f"{published} "
        "Scripted policies: enumerated on the rules of the games, or measured here."
    )


def _sets_of_games(results: Results, runs: Iterable[TrainingRun]) -> dict[str, list[str]]:
    """By task of these runs, the set of games of its held-out points, if its games are divided into sets."""
    played = {task: results.main_evaluations(task=task) for task in dict.fromkeys(run.task for run in runs)}
    sets = {task: sorted({run.games for run in found if run.games}) for task, found in played.items()}
    return {task: names for task, names in sets.items() if names}


def _of(rates: Iterable[Rate], task: str, method: str) -> list[Rate]:
    return [rate for rate in rates if (rate.task, rate.method) == (task, method)]

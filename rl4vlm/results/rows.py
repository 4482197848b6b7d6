"""The rows of the result tables, as data frames.

Each row says where it comes from. A method that was not run has no `reproduced` row; a published number never stands in
for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import pandas as pd

from rl4vlm.config.methods import METHODS, rank
from rl4vlm.results.collection import Results
from rl4vlm.results.intervals import Outcomes, average_interval, rate_interval
from rl4vlm.results.provenance import HELD_OUT, ROLLING_PEAK
from rl4vlm.results.published import Rate, later_rates, published_lambda_peaks, published_rates
from rl4vlm.results.read import Evaluation, TrainingRun

CARD_AVERAGE = "gym_cards_avg"
CARD_TASKS = ("NumberLine", "EZPoints", "Points24", "Blackjack")
TASK_ORDER = tuple(dict.fromkeys([*CARD_TASKS, CARD_AVERAGE, *(rate.task for rate in published_rates())]))
"""The card games first, then the other columns of the published table: ALFWorld's task types and its average."""
COT_METHODS = ("LLaVA-sft-noCoT", "LLaVA-sft", "RL4VLM-noCoT", "RL4VLM")
PAPER_SCALE = "paper"
"""The label of the paper's own rows."""
SOURCES = ("reproduced", "published", "reference")
STAGES = ("pretraining", "sft", "ppo")


class Row(NamedTuple):
    """One success rate, in percent.

    Attributes:
        source: one of `SOURCES`.
        scale: the config that made it, with the games if they are data; for published rates `paper`, or the later work
            that reports them.
        episodes: how many; None if unknown.
        seeds: training seeds, separated by blanks.
        protocol: `held_out` (fixed evaluation seeds, 95 % interval) or `rolling_peak` (the paper's, the best rolling
            success during training); None for reference rates, which were enumerated.
        partial: an evaluation in it played fewer episodes than asked for. Not a column of the CSV.
    """

    method: str
    task: str
    source: str
    scale: str | None
    success_rate: float
    ci_low: float | None = None
    ci_high: float | None = None
    mean_return: float | None = None
    episodes: int | None = None
    seeds: str | None = None
    protocol: str | None = None
    partial: bool = False


COLUMNS = [name for name in Row._fields if name != "partial"]
PERCEPTION_COLUMNS = ["stage", "method", "task", "field", "scale", "accuracy", "n", "not_stated", "games"]

MethodName = Callable[[Evaluation | TrainingRun], str]
"""Name of a run's method in a table."""
by_method = attrgetter("method")


def lambda_method_name(run: Evaluation | TrainingRun) -> str:
    """Name of a run's method in the λ ablation, e.g. `RL4VLM lambda=0.3`."""
    return f"{run.method} lambda={run.thought_prob_coef:g}"


def rate_rows(results: Results, scale: str) -> dict[str, pd.DataFrame]:
    """The tables of success rates, by name.

    Returns:
        `main`: every method on every task (paper, table 2), reproduced by both protocols, published, and reference.
        `cot`: the ablation of the chain of thought (paper, table 3), with the warm start of each style, if both styles
            were played.
        `lambda`: the ablation of λ (paper, figure 7), on every task that was trained with more than one λ, if any.
    """
    rows = [
        *_held_out(results.evaluations_on_all_games(), scale, by_method),
        *_rolling_peaks(results.main_runs(), results, scale, by_method),
        *_published(published_rates()),
    ]
    later = [row for source, rates in later_rates().items() for row in _published(rates, source)]
    both_styles = {"RL4VLM", "RL4VLM-noCoT"} <= {run.method for run in results.evaluations}
    swept = {task for task in results.tasks if len(results.lambdas(task)) > 1}
    evaluations = [run for run in results.evaluations if run.task in swept and run.method == "RL4VLM"]
    runs = [run for run in results.training_runs if run.task in swept and run.method == "RL4VLM"]
    lambda_rows = [
        *_held_out(evaluations, scale, lambda_method_name),
        *_rolling_peaks(runs, results, scale, lambda_method_name),
        *_published(published_lambda_peaks()),
    ]
    return {
        # The paper's main table has no warm start without thoughts.
        "main": _frame(row for row in [*rows, *later, *_reference(results)] if row.method != "LLaVA-sft-noCoT"),
        **({"cot": _frame(row for row in rows if row.method in COT_METHODS)} if both_styles else {}),
        **({"lambda": _frame(lambda_rows)} if swept else {}),
    }


def perception_rows(results: Results, scale: str) -> pd.DataFrame:
    """How often each field of the image was read right, in percent of `n`: of the base model, after SFT, after PPO.

    `n` counts the replies that state the field, `not_stated` those that do not. Without any `n`, there is no accuracy.
    `games` is None for a base model, because its `perception.json` does not say which games it read.
    """
    rows: list[tuple[Any, ...]] = [
        ("pretraining", "base model", task, name, scale, 100 * share, perception.samples, 0, None)
        for task, perception in results.base_perceptions.items()
        for name, share in perception.tasks.get(task, {}).items()
    ]
    counts = pd.DataFrame(
        [
            (run.kind, run.method, run.task, name, found.right, found.wrong, found.not_stated)
            for run in results.main_evaluations()
            if run.kind != "scripted"
            for name, found in run.perception.items()
        ],
        columns=["stage", "method", "task", "field", "right", "wrong", "not_stated"],
    )
    for (stage, method, task, name), pooled in groups(counts, "stage", "method", "task", "field"):
        right, wrong, not_stated = (int(pooled[mark].sum()) for mark in ("right", "wrong", "not_stated"))
        if stated := right + wrong:
            rows.append(
                (stage, method, task, name, scale, 100 * right / stated, stated, not_stated, results.games(task))
            )
        elif not_stated:
            rows.append((stage, method, task, name, scale, None, 0, not_stated, results.games(task)))
    rows.sort(key=lambda row: (rank(row[2], TASK_ORDER), rank(row[0], STAGES), row[1]))
    return pd.DataFrame(rows, columns=PERCEPTION_COLUMNS)


def _held_out(runs: Sequence[Evaluation], scale: str, name: MethodName) -> list[Row]:
    """Held-out rows, training seeds pooled, and each method's average over the card games if it played all of them.

    The average is over the first set of each game.

    A task that is counted by kinds has a row for each kind that an episode was of, and one for all of them. Different
    sets of games are different rows, told apart by their scale.
    """
    parts = pd.DataFrame(
        [
            (name(run), labelled(scale, run.games_label), run.task, run.on_main_games, *part)
            for run in runs
            for part in _parts(run)
        ],
        columns=["method", "scale", "game", "on_main_games", "task", "won", "mean_return", "seed", "partial"],
    )
    parts = parts.iloc[parts.groupby(["method", "game", "scale"], sort=False).ngroup().argsort(kind="stable")]
    rows = [
        _held_out_row(method, task, label, part)
        for (method, _, label, task), part in groups(parts, "method", "game", "scale", "task")
    ]
    for (method,), played in groups(parts[parts["task"].isin(CARD_TASKS) & parts["on_main_games"]], "method"):
        games = [played[played["task"] == task] for task in CARD_TASKS]
        if all(len(game) for game in games):
            rows.append(_average_row(method, scale, games))
    return rows


def _parts(run: Evaluation) -> Iterator[tuple[str, Outcomes, float | None, int | None, bool]]:
    """An evaluation by kind of episodes, and as a whole. Returns are not known by kind."""
    for kind in run.groups:
        if kind in run.won_by_group:
            yield kind, run.won_by_group[kind], None, run.seed, run.partial
    yield run.overall or run.task, run.won, run.mean_return, run.seed, run.partial


def _held_out_row(method: str, task: str, scale: str, parts: pd.DataFrame) -> Row:
    low, high = rate_interval(list(parts["won"]))
    episodes = sum(parts["won"].map(len))
    total_return = (parts["mean_return"] * parts["won"].map(len)).sum(skipna=False)
    return Row(
        method,
        task,
        "reproduced",
        scale,
        success_rate=_rate(parts),
        ci_low=low,
        ci_high=high,
        mean_return=None if pd.isna(total_return) else float(total_return) / episodes,
        episodes=episodes,
        seeds=seed_list(parts["seed"]),
        protocol=HELD_OUT,
        partial=bool(parts["partial"].any()),
    )


def _average_row(method: str, scale: str, games: Sequence[pd.DataFrame]) -> Row:
    """The unweighted mean over the card games, as in the paper. Returns of different games have no common unit."""
    low, high = average_interval([list(game["won"]) for game in games])
    together = pd.concat(games)
    return Row(
        method,
        CARD_AVERAGE,
        "reproduced",
        scale,
        success_rate=sum(map(_rate, games)) / len(games),
        ci_low=low,
        ci_high=high,
        episodes=sum(together["won"].map(len)),
        seeds=seed_list(together["seed"]),
        protocol=HELD_OUT,
        partial=bool(together["partial"].any()),
    )


def _rolling_peaks(runs: Sequence[TrainingRun], results: Results, scale: str, name: MethodName) -> list[Row]:
    """The paper's statistic: peaks averaged over seeds, by method and task, and their average over the card games.

    A peak over correlated windows has no meaningful interval, so these rows have none.
    """
    peaks = pd.DataFrame(
        [(name(run), run.task, run.peak.success_rate, run.peak.window, run.seed) for run in runs if run.peak],
        columns=["method", "task", "success_rate", "window", "seed"],
    )
    rows = {
        (method, task): Row(
            method,
            results.overall_name(task),
            "reproduced",
            labelled(scale, results.games(task)),
            success_rate=sum(found["success_rate"]) / len(found),
            episodes=int(found["window"].sum()),
            seeds=seed_list(found["seed"]),
            protocol=ROLLING_PEAK,
        )
        for (method, task), found in groups(peaks, "method", "task")
    }
    for (method,), found in groups(peaks[peaks["task"].isin(CARD_TASKS)], "method"):
        if set(found["task"]) == set(CARD_TASKS):
            rate = sum(rows[method, task].success_rate for task in CARD_TASKS) / len(CARD_TASKS)
            seeds, protocol = seed_list(found["seed"]), ROLLING_PEAK
            average = Row(method, CARD_AVERAGE, "reproduced", scale, rate, seeds=seeds, protocol=protocol)
            rows[method, CARD_AVERAGE] = average
    return list(rows.values())


def _published(rates: Iterable[Rate], by: str = PAPER_SCALE) -> list[Row]:
    # Later works do not all say by which protocol they measured.
    protocol = ROLLING_PEAK if by == PAPER_SCALE else None
    return [Row(*rate[:2], "published", by, rate.success_rate, protocol=protocol) for rate in rates]


def _reference(results: Results) -> list[Row]:
    return [Row(*rate[:2], "reference", None, rate.success_rate) for rate in results.reference_rates()]


def groups(rows: pd.DataFrame, *columns: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The rows with equal values in `columns`: these values and the rows, ordered by each group's first row."""
    for key, found in rows.groupby(list(columns), sort=False):
        yield tuple(key), found


def labelled(scale: str, games: str | None) -> str:
    """The label of a row: the config that made it, with the games if they are data."""
    return scale if games is None else f"{scale}, {games}"


def with_games(task: str, label: str) -> str:
    """A task with the games that the label of a row (`labelled`) names, such as `ALFWorld (generated games, seen)`."""
    games = label.partition(", ")[2]
    return f"{task} ({games})" if games else task


def _rate(parts: pd.DataFrame) -> float:
    """The success rate of all episodes, in percent."""
    return 100 * sum(sum(won.values()) for won in parts["won"]) / sum(parts["won"].map(len))


def seed_list(seeds: pd.Series) -> str | None:
    """The distinct seeds in order, separated by spaces; None if there is none."""
    return " ".join(str(int(seed)) for seed in sorted(seeds.dropna().unique())) or None


def _frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows in the order of the tables: by method, then source and protocol, then task."""
    methods = [*METHODS]

    def place(row: Row) -> tuple[Any, ...]:
        later = row.source == "published" and row.scale != PAPER_SCALE
        where = SOURCES.index(row.source), later, row.protocol or ""
        return rank(row.method, methods), *where, rank(row.task, TASK_ORDER)

    ordered: list[Row] = sorted(rows, key=place)
    # Int64 keeps episodes whole numbers although some rows have none.
    return pd.DataFrame(ordered, columns=Row._fields).astype({"episodes": "Int64"})

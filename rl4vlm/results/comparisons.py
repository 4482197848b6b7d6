"""What a reader can conclude: differences on the same episodes, shares of the ceiling, and how the peak flatters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rl4vlm.results.collection import Results
from rl4vlm.results.intervals import PairCounts, average_interval, paired_difference
from rl4vlm.results.published import reference_rates
from rl4vlm.results.read import Evaluation
from rl4vlm.results.rows import groups, labelled, lambda_method_name

COMPARISONS = (
    ("PPO", "RL4VLM", "LLaVA-sft"),
    ("PPO", "RL4VLM-noCoT", "LLaVA-sft-noCoT"),
    ("thoughts", "RL4VLM", "RL4VLM-noCoT"),
    ("language model", "RL4VLM", "CNN+RL"),
)
"""What is asked, and the two methods whose difference answers it: does it help?"""
DIFFERENCE_COLUMNS = [
    "comparison", "method", "against", "task", "scale", "difference", "ci_low", "ci_high", "probability", "verdict",
    "episodes", "seeds",
]  # fmt: skip
CEILING_COLUMNS = [
    "method", "task", "scale", "success_rate", "ceiling", "ceiling_source", "share", "share_low", "share_high",
    "rolling_peak", "flatters_by", "seeds",
]  # fmt: skip
ALL_TASKS = "all tasks"


def difference_rows(results: Results, scale: str) -> pd.DataFrame:
    """The differences of `COMPARISONS`, and of each λ against the method's own, by task and set of games, in points."""
    rows: list[tuple[object, ...]] = []
    for task in results.tasks:
        for comparison, method, baseline in COMPARISONS:
            first, second = (results.evaluations_on_all_games(name, task) for name in (method, baseline))
            rows += _differences(comparison, method, baseline, first, second, scale)
        own = results.evaluations_on_all_games("RL4VLM", task)
        for weight in results.lambdas(task):
            others = [
                run
                for run in results.evaluations
                if (run.task, run.method, run.thought_prob_coef) == (task, "RL4VLM", weight)
            ]
            if own and others and weight != results.lambda_of(task):
                names = lambda_method_name(others[0]), lambda_method_name(own[0])
                rows += _differences("λ", *names, others, own, scale)
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS).astype({"episodes": "Int64"})


def _differences(
    comparison: str, method: str, against: str, first: Sequence[Evaluation], second: Sequence[Evaluation], scale: str
) -> Iterator[tuple[object, ...]]:
    """One row for each set of games that both methods played with the same training seeds."""
    for games in dict.fromkeys(run.games_label for run in first):
        baseline = {run.seed: run for run in second if run.games_label == games}
        pairs = {
            run.seed: paired_counts(run, baseline[run.seed])
            for run in first
            if run.games_label == games and run.seed in baseline
        }
        pairs = {seed: counts for seed, counts in pairs.items() if sum(counts)}
        if pairs:
            found = paired_difference(list(pairs.values()))
            seeds = " ".join(str(seed) for seed in pairs)
            yield (
                comparison, method, against, first[0].task, labelled(scale, games), *found, found.verdict,
                sum(map(sum, pairs.values())), seeds,
            )  # fmt: skip


def paired_counts(first: Evaluation, second: Evaluation) -> PairCounts:
    """Of the episodes (by seed) that both played: how many only `first` won, both or neither, only `second`."""
    both = sorted(first.won.keys() & second.won.keys())
    difference = np.array([int(first.won[seed]) - int(second.won[seed]) for seed in both], dtype=np.int64)
    more, same, less = np.bincount(1 - difference, minlength=3)
    return int(more), int(same), int(less)


def ceiling_rows(results: Results, main: pd.DataFrame, scale: str) -> pd.DataFrame:
    """Held-out rates as shares of the best possible one, and beside them the rolling peak of the same trainings.

    The ceiling is enumerated on the rules if that was done, otherwise it is what the solver won of the same games.

    Args:
        results: all results.
        main: the main table.
        scale: label of the reproduced rows.
    """
    overall = [results.overall_name(task) for task in results.tasks]
    reproduced = main[(main["source"] == "reproduced") & main["task"].isin(overall)]
    held_out = reproduced[reproduced["protocol"] == "held_out"].merge(
        _ceilings(reproduced), on=["task", "scale"], how="left"
    )
    peaks = reproduced[reproduced["protocol"] == "rolling_peak"][["method", "task", "success_rate"]]
    rows = held_out[held_out["method"] != "solver"].merge(
        peaks.rename(columns={"success_rate": "rolling_peak"}), on=["method", "task"], how="left"
    )
    for share, rate in (("share", "success_rate"), ("share_low", "ci_low"), ("share_high", "ci_high")):
        rows[share] = 100 * rows[rate] / rows["ceiling"]
    rows["flatters_by"] = rows["rolling_peak"] - rows["success_rate"]
    lines: list[dict[Any, Any]] = []
    for (method,), found in groups(rows, "method"):
        lines += found[CEILING_COLUMNS].to_dict("records")
        lines += _over_all_tasks(results, method, scale, found)
    return pd.DataFrame(lines, columns=CEILING_COLUMNS)


def _ceilings(reproduced: pd.DataFrame) -> pd.DataFrame:
    """The ceiling in percent by task and scale, with where it comes from."""
    enumerated = {rate.task: rate.success_rate for rate in reference_rates() if rate.method == "solver"}
    solver = reproduced[(reproduced["method"] == "solver") & (reproduced["protocol"] == "held_out")]
    measured = solver.set_index(["task", "scale"])["success_rate"]
    places = reproduced[reproduced["protocol"] == "held_out"][["task", "scale"]].drop_duplicates()
    return places.assign(
        ceiling=[
            enumerated.get(task, measured.get((task, where), np.nan)) for task, where in places.itertuples(index=False)
        ],
        ceiling_source=["enumerated" if task in enumerated else "solver, same episodes" for task in places["task"]],
    )


def _over_all_tasks(results: Results, method: str, scale: str, rows: pd.DataFrame) -> list[dict[Any, Any]]:
    """The mean share over all tasks, each on its main games; empty unless the method played every task."""
    names = {results.overall_name(task): task for task in results.tasks}
    main = rows.drop_duplicates("task").dropna(subset="ceiling")
    if len(main) < max(len(names), 2):
        return []
    runs = {task: results.main_evaluations(method, names[task]) for task in main["task"]}
    counts = [[run.counts for run in runs[task]] for task in main["task"]]
    low, high = average_interval(counts, list(main["ceiling"]))
    share = float(main["share"].mean())
    found = {"share": share, "share_low": low, "share_high": high, "seeds": main["seeds"].iloc[0]}
    return [{"method": method, "task": ALL_TASKS, "scale": scale, **found}]

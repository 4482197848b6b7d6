"""Comparisons: differences on the same episodes, shares of the ceiling, and rolling peaks beside held-out rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rl4vlm.results.collection import Results
from rl4vlm.results.intervals import Outcomes, average_interval, paired_difference
from rl4vlm.results.provenance import HELD_OUT, ROLLING_PEAK
from rl4vlm.results.read import Evaluation
from rl4vlm.results.rows import groups, labelled, lambda_method_name, seed_list, with_games

COMPARISONS = (
    ("PPO", "RL4VLM", "LLaVA-sft"),
    ("PPO", "RL4VLM-noCoT", "LLaVA-sft-noCoT"),
    ("thoughts", "RL4VLM", "RL4VLM-noCoT"),
    ("language model", "RL4VLM", "CNN+RL"),
)
"""For each question whether something helps: its name, and the two methods whose difference answers it."""
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
            rows += differences(comparison, method, baseline, first, second, scale)
        own = results.evaluations_on_all_games("RL4VLM", task)
        for weight in results.lambdas(task):
            others = [
                run
                for run in results.evaluations
                if (run.task, run.method, run.thought_prob_coef) == (task, "RL4VLM", weight)
            ]
            if own and others and weight != results.lambda_of(task):
                names = lambda_method_name(others[0]), lambda_method_name(own[0])
                rows += differences("λ", *names, others, own, scale)
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS).astype({"episodes": "Int64"})


def differences(
    comparison: str, method: str, against: str, first: Sequence[Evaluation], second: Sequence[Evaluation], scale: str
) -> Iterator[tuple[object, ...]]:
    """One row for each set of games that both methods played with the same training seeds."""
    for games in dict.fromkeys(run.games_label for run in first):
        baseline = {run.seed: run for run in second if run.games_label == games}
        pairs = {
            run.seed: paired(run, baseline[run.seed])
            for run in first
            if run.games_label == games and run.seed in baseline
        }
        pairs = {seed: outcomes for seed, outcomes in pairs.items() if outcomes}
        if pairs:
            found = paired_difference(list(pairs.values()))
            seeds = " ".join(str(seed) for seed in pairs)
            yield (
                comparison, method, against, first[0].task, labelled(scale, games), *found, found.verdict,
                sum(map(len, pairs.values())), seeds,
            )  # fmt: skip


def lambda_verdicts(rows: pd.DataFrame) -> Iterator[str]:
    """One sentence per task that was trained with several λ: which ones differ from the method's own.

    Args:
        rows: as `difference_rows` returns them.
    """
    for (where, task), found in groups(rows[rows["comparison"] == "λ"], "scale", "task"):
        own, differ = found["against"].iloc[0].partition("lambda=")[2], found[found["verdict"] != "undecided"]
        bound = found[["ci_low", "ci_high"]].abs().to_numpy().max()
        decided = [
            f"{method.partition('lambda=')[2]} ({verdict})"
            for method, verdict in differ[["method", "verdict"]].itertuples(index=False)
        ]
        said = f"λ that differ from {own} are {', '.join(decided)}" if decided else f"no λ differs from {own}"
        yield f"{with_games(task, where)}: {said}; all intervals of the differences lie within ±{bound:.1f} points."


def paired(first: Evaluation, second: Evaluation) -> Outcomes:
    """Outcomes of the episodes that both played, by seed: 1 if only `first` won, -1 if only `second` did, else 0."""
    return {seed: won - second.won[seed] for seed, won in first.won.items() if seed in second.won}


def ceiling_rows(results: Results, main: pd.DataFrame, scale: str) -> pd.DataFrame:
    """Held-out rates as shares of the best possible rate, with the rolling peak of the same trainings.

    The ceiling is enumerated on the rules if that was done, otherwise it is what the solver won of the same games.

    Args:
        results: all results.
        main: the main table.
        scale: label of the reproduced rows.
    """
    overall = [results.overall_name(task) for task in results.tasks]
    reproduced = main[(main["source"] == "reproduced") & main["task"].isin(overall)]
    held_out = reproduced[reproduced["protocol"] == HELD_OUT].merge(
        _ceilings(results, reproduced), on=["task", "scale"], how="left"
    )
    peaks = reproduced[reproduced["protocol"] == ROLLING_PEAK][["method", "task", "success_rate"]]
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


def _ceilings(results: Results, reproduced: pd.DataFrame) -> pd.DataFrame:
    """The ceiling in percent by task and scale, with where it comes from. One of 0 is not known: it has no shares."""
    solver = reproduced[(reproduced["method"] == "solver") & (reproduced["protocol"] == HELD_OUT)]
    measured = solver.set_index(["task", "scale"])["success_rate"]
    places = reproduced[reproduced["protocol"] == HELD_OUT][["task", "scale"]].drop_duplicates()
    enumerated = [results.reference_rate("solver", task) for task in places["task"]]
    known = [rate is not None for rate in enumerated]
    ceilings = [
        rate if rate is not None else measured.get(place, np.nan)
        for rate, place in zip(enumerated, places.itertuples(index=False, name=None), strict=True)
    ]
    return places.assign(
        ceiling=[rate or np.nan for rate in ceilings],
        ceiling_source=np.where(known, "enumerated", "solver, same episodes"),
    )


def _over_all_tasks(results: Results, method: str, scale: str, rows: pd.DataFrame) -> list[dict[Any, Any]]:
    """The mean share over all tasks, each on its main games; empty unless the method played every task."""
    names = {results.overall_name(task): task for task in results.tasks}
    main = rows.drop_duplicates("task").dropna(subset="ceiling")
    if len(main) < max(len(names), 2):
        return []
    runs = {task: results.main_evaluations(method, names[task]) for task in main["task"]}
    outcomes = [[run.won for run in runs[task]] for task in main["task"]]
    low, high = average_interval(outcomes, list(main["ceiling"]))
    share = float(main["share"].mean())
    seeds = seed_list(pd.Series([run.seed for task in main["task"] for run in runs[task]]))
    found = {"share": share, "share_low": low, "share_high": high, "seeds": seeds}
    return [{"method": method, "task": ALL_TASKS, "scale": scale, **found}]

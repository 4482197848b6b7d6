"""The result tables: tidy CSV for programs, and the same rows side by side in Markdown and LaTeX for readers.

Every row says where it comes from. A method that was not run has no `reproduced` row; a published number never stands
in for it.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rl4vlm.core.files import atomic_write_text
from rl4vlm.results.layout import Table, latex, markdown
from rl4vlm.results.provenance import write_run_record
from rl4vlm.results.published import PAPER, Rate, published_lambda_peaks, published_rates, reference_rates
from rl4vlm.results.rate_intervals import Counts, average_interval, rate_interval
from rl4vlm.results.read import Evaluation, Results, TrainingRun, input_files, perceptions_record

CARD_AVERAGE = "gym_cards_avg"
CARD_TASKS = ("NumberLine", "EZPoints", "Points24", "Blackjack")
TASK_ORDER = tuple(dict.fromkeys([*CARD_TASKS, CARD_AVERAGE, *(rate.task for rate in published_rates())]))
"""The cards first, then what else the published table has, in its order: ALFWorld's types and its average."""
METHOD_ORDER = (
    "random",
    "stand on 17",
    "solver",
    "LLaVA-sft-noCoT",
    "LLaVA-sft",
    "RL4VLM-noCoT",
    "RL4VLM",
    "RL4VLM over HTTP",
    "CNN+RL",
)
COT_METHODS = ("LLaVA-sft-noCoT", "LLaVA-sft", "RL4VLM-noCoT", "RL4VLM")
NOT_THE_BENCHMARK = {
    "generated games": "Generated games are this project's",
    "drawn pictures": "Drawn pictures are this project's",
}
"""What a row's label may say of its games, and what a reader is then told."""

Name = Callable[[Evaluation | TrainingRun], str]
"""What a run's method is called in a table."""


@dataclass(frozen=True)
class Row:
    """One success rate, in percent, as a line of the CSV; None is an empty cell.

    `source` is `reproduced`, `published` or `reference`; `scale` the config that made it, or `paper`; `seeds` the
    training seeds, blank-separated; `protocol` is `held_out` (fixed evaluation seeds, 95 % interval), `rolling_peak`
    (the paper's: the best rolling success during training), or empty for reference values, which were enumerated.
    `partial`: fewer episodes were played than asked for, in any of the evaluations it is made of; no column, since
    `episodes` tells how many, but a mark in Markdown and LaTeX.
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


BASE_GAMES = "Where games are data, a base model read those that it was made on, whatever the later stages played."

COLUMNS = [field.name for field in fields(Row) if field.name != "partial"]
PARTIAL = "†"


@dataclass(frozen=True)
class PerceptionRow:
    """How often a field of the picture was read right, in percent of `n` times that it had to be read.

    `games` says which games these were, where games are data; None for a base model, whose record does not tell.
    """

    stage: str
    method: str
    task: str
    field: str
    scale: str
    accuracy: float
    n: int
    games: str | None = None


def build_tables(
    *,
    evaluations: Iterable[Path],
    training_runs: Iterable[Path],
    base_perceptions: Mapping[str, Path],
    out: Path,
    scale: str,
    main_lambda: Mapping[str, float] | None = None,
) -> None:
    """Write `main`, `cot`, `lambda` and `reading` as `.csv`, `.md` and `.tex` into `out`, and `run.json` about them.

    Args:
        evaluations: folders of held-out evaluations (`summary.json`, `episodes.jsonl`).
        training_runs: folders of PPO and CNN+RL runs (`metrics.jsonl`), for the paper's own protocol.
        base_perceptions: by task, the `perception.json` of the base model that it started from, if that was asked.
        out: folder to write.
        scale: label of the reproduced rows (`embedded`, `smoke`, `paper`, ...).
        main_lambda: by task, which λ is the method's own; see `Results`.

    Raises ValueError naming an input file (and line) that is missing or broken.
    """
    started = time.monotonic()
    evaluations, training_runs = list(evaluations), list(training_runs)
    results = Results.load(
        evaluations=evaluations, training_runs=training_runs, base_perceptions=base_perceptions, main_lambda=main_lambda
    )
    kinds, headings = results.kinds, {CARD_AVERAGE: "card average", **results.overall_headings}
    legend = _legend(scale)
    _write_rates(out / "main", main_rows(results, scale), f"Success rates in percent. {legend}", headings, kinds)
    _write_rates(out / "cot", cot_rows(results, scale), f"With and without chain of thought. {legend}", headings, kinds)
    by_eye = "The published values of this table are peaks of curves read by eye off figure 7 (±1.5 points)."
    _write_rates(
        out / "lambda", lambda_rows(results, scale), f"The weight λ of the thoughts. {legend} {by_eye}", headings
    )
    _write_perception(out / "perception", perception_rows(results, scale), scale)
    write_run_record(
        out,
        stage="tables",
        settings={
            "scale": scale,
            "main_lambda": results.main_lambda,
            "base_perceptions": perceptions_record(base_perceptions),
        },
        seeds={},
        inputs=input_files(evaluations, training_runs, base_perceptions),
        seconds=time.monotonic() - started,
    )


def main_rows(results: Results, scale: str) -> list[Row]:
    """Every method proper on every task, reproduced (both protocols), published and reference; averages included."""
    rows = [*_reproduced(results, scale), *_published(published_rates()), *_reference(reference_rates())]
    # The warm start without thoughts belongs to the ablation; the paper's main table has none.
    return _ordered(row for row in rows if row.method != "LLaVA-sft-noCoT")


def cot_rows(results: Results, scale: str) -> list[Row]:
    """The ablation of the chain of thought (paper, table 3), with the warm start of each style."""
    rows = [*_reproduced(results, scale), *_published(published_rates())]
    return _ordered(row for row in rows if row.method in COT_METHODS)


def lambda_rows(results: Results, scale: str) -> list[Row]:
    """The ablation of λ (paper, figure 7), on every task that was trained with more than one λ."""
    swept = {task for task in results.tasks if len(results.lambdas(task)) > 1}
    evaluations = [run for run in results.evaluations if run.task in swept and run.method == "RL4VLM"]
    runs = [run for run in results.training_runs if run.task in swept and run.method == "RL4VLM"]
    return _ordered(
        [
            *_held_out(evaluations, scale, name=lambda_method),
            *_rolling_peaks(runs, scale, results, name=lambda_method),
            *_published(published_lambda_peaks()),
        ]
    )


def perception_rows(results: Results, scale: str) -> list[PerceptionRow]:
    """Reading accuracy by task and field: of the base model, after SFT and after PPO."""
    rows = []
    for task, read in results.base_perceptions.items():
        rows += [
            PerceptionRow("pretraining", "base model", task, name, scale, 100 * share, read.samples)
            for name, share in read.shares.get(task, {}).items()
        ]
    counts: dict[tuple[str, str, str, str], list[Counts]] = {}
    for run in results.headline_evaluations():
        if run.kind != "scripted":
            for name, found in run.perception.items():
                counts.setdefault((run.kind, run.method, run.task, name), []).append(found)
    for (stage, method, task, name), perceptions in counts.items():
        correct, asked = (sum(column) for column in zip(*perceptions, strict=True))
        if asked:
            rows.append(
                PerceptionRow(stage, method, task, name, scale, 100 * correct / asked, asked, results.games(task))
            )
    stages = ["pretraining", "sft", "ppo"]
    return sorted(rows, key=lambda row: (_rank(row.task, TASK_ORDER), _rank(row.stage, stages), row.method))


def _reproduced(results: Results, scale: str) -> list[Row]:
    """The rows of every method's own runs, by both protocols."""
    held_out = _held_out(results.evaluations_by_games(), scale)
    return [*held_out, *_rolling_peaks(results.headline_runs(), scale, results)]


def _method(run: Evaluation | TrainingRun) -> str:
    return run.method


def lambda_method(run: Evaluation | TrainingRun) -> str:
    """The name of a run's method in the λ ablation, e.g. `RL4VLM lambda=0.3`."""
    return f"{run.method} lambda={run.thought_prob_coef:g}"


def _held_out(runs: Sequence[Evaluation], scale: str, name: Name = _method) -> list[Row]:
    """Held-out rows, training seeds pooled, and each method's average over the card games where it has all of them.

    A task that is counted by kinds of episodes has a row for each kind, and one for all; a kind that no episode was of
    has none. Different sets of games are different rows, told apart by their scale.
    """
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    by_games: dict[tuple[str, str, str | None], list[Evaluation]] = {}
    for run in runs:
        groups.setdefault((name(run), run.task), []).append(run)
        by_games.setdefault((name(run), run.task, run.data), []).append(run)
    rows: list[Row] = []
    for (method, task, games), group in by_games.items():
        label = scale if games is None else f"{scale}, {games}"
        rows += _kind_rows(method, group, label)
        rows.append(_held_out_row(method, group[0].overall or task, group, label))
    for method in dict.fromkeys(method for method, _ in groups):
        tasks = [groups.get((method, task), []) for task in CARD_TASKS]
        if all(tasks):
            rows.append(_average_row(method, tasks, scale))
    return rows


def _held_out_row(method: str, task: str, runs: Sequence[Evaluation], scale: str) -> Row:
    episodes = sum(run.episodes for run in runs)
    low, high = rate_interval([(run.successes, run.episodes) for run in runs])
    return Row(
        method,
        task,
        "reproduced",
        scale,
        success_rate=100 * sum(run.successes for run in runs) / episodes,
        ci_low=low,
        ci_high=high,
        mean_return=sum(run.mean_return * run.episodes for run in runs) / episodes,
        episodes=episodes,
        seeds=_seeds(runs),
        protocol="held_out",
        partial=any(run.partial for run in runs),
    )


def _kind_rows(method: str, runs: Sequence[Evaluation], scale: str) -> list[Row]:
    """A row for each kind of episodes that was met, training seeds pooled. Returns are not known by kind."""
    rows = []
    for kind in dict.fromkeys(kind for run in runs for kind in run.groups):
        counts = [run.groups[kind] for run in runs if run.groups.get(kind, (0, 0))[1]]
        if counts:
            won, played = (sum(column) for column in zip(*counts, strict=True))
            low, high = rate_interval(counts)
            partial = any(run.partial for run in runs)
            row = Row(method, kind, "reproduced", scale, 100 * won / played, low, high, partial=partial)
            rows.append(replace(row, episodes=played, seeds=_seeds(runs), protocol="held_out"))
    return rows


def _average_row(method: str, tasks: Sequence[Sequence[Evaluation]], scale: str) -> Row:
    """Unweighted over tasks, as in the paper. Returns of different games do not add up, so there is no mean return."""
    counts = [[(run.successes, run.episodes) for run in runs] for runs in tasks]
    pooled = [[sum(column) for column in zip(*seeds, strict=True)] for seeds in counts]
    low, high = average_interval(counts)
    return Row(
        method,
        CARD_AVERAGE,
        "reproduced",
        scale,
        success_rate=sum(100 * successes / episodes for successes, episodes in pooled) / len(tasks),
        ci_low=low,
        ci_high=high,
        episodes=sum(episodes for _, episodes in pooled),
        seeds=_seeds([run for runs in tasks for run in runs]),
        protocol="held_out",
        partial=any(run.partial for runs in tasks for run in runs),
    )


def _rolling_peaks(runs: Sequence[TrainingRun], scale: str, results: Results, name: Name = _method) -> list[Row]:
    """The paper's statistic by method and task, a mean over seeds, and the average over the card games.

    A peak over correlated windows has no interval that means anything, so it has none.
    """
    groups: dict[tuple[str, str], list[TrainingRun]] = {}
    for run in runs:
        if run.peak is not None:
            groups.setdefault((name(run), run.task), []).append(run)
    rows = {}
    for (method, task), group in groups.items():
        games = results.games(task)
        label = scale if games is None else f"{scale}, {games}"
        rows[method, task] = _peak_row(method, results.overall_name(task), group, label)
    for method in dict.fromkeys(method for method, _ in groups):
        tasks = [rows[method, task] for task in CARD_TASKS if (method, task) in rows]
        if len(tasks) == len(CARD_TASKS):
            mean = sum(row.success_rate for row in tasks) / len(tasks)
            seeds = _seeds([run for task in CARD_TASKS for run in groups[method, task]])
            rows[method, CARD_AVERAGE] = Row(
                method, CARD_AVERAGE, "reproduced", scale, mean, seeds=seeds, protocol="rolling_peak"
            )
    return list(rows.values())


def _peak_row(method: str, task: str, runs: Sequence[TrainingRun], scale: str) -> Row:
    peaks = [run.peak for run in runs if run.peak is not None]
    return Row(
        method,
        task,
        "reproduced",
        scale,
        success_rate=sum(peak.success_rate for peak in peaks) / len(peaks),
        episodes=sum(peak.window for peak in peaks),
        seeds=_seeds(runs),
        protocol="rolling_peak",
    )


def _published(rates: Iterable[Rate]) -> list[Row]:
    return [
        Row(rate.method, rate.task, "published", "paper", rate.success_rate, protocol="rolling_peak") for rate in rates
    ]


def _reference(rates: Iterable[Rate]) -> list[Row]:
    return [Row(rate.method, rate.task, "reference", None, rate.success_rate) for rate in rates]


def _seeds(runs: Iterable[Evaluation | TrainingRun]) -> str | None:
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    return " ".join(map(str, seeds)) or None


def _rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    """Sorts by a given order; what is not in it comes last, by name."""
    return (order.index(name), "") if name in order else (len(order), name)


def _ordered(rows: Iterable[Row]) -> list[Row]:
    return sorted(
        rows, key=lambda row: (_rank(row.method, METHOD_ORDER), *_place_of_source(row), _rank(row.task, TASK_ORDER))
    )


def _place_of_source(row: Row) -> tuple[int, str]:
    return ("reproduced", "published", "reference").index(row.source), row.protocol or ""


def _legend(scale: str) -> str:
    return (
        f"Reproduced at scale `{scale}`; held out: fixed evaluation seeds, with 95 % intervals; rolling peak: the "
        f"paper's protocol, the best rolling success during training. Published: {PAPER} (RL4VLM and LLaVA-sft are "
        "a 7B model), by the paper's protocol. Reference: enumerated or measured on the games' rules. Empty: not run, "
        "or not known."
    )


def _write_rates(
    base: Path, rows: Sequence[Row], caption: str, headings: Mapping[str, str], kinds: Sequence[str] = ()
) -> None:
    if any(row.partial for row in rows):
        caption += f" {PARTIAL} Partial: the policy stopped before all the episodes that were asked for were played."
    for words, what in NOT_THE_BENCHMARK.items():
        if any(words in (row.scale or "") for row in rows):
            caption += f" {what}, not the benchmark's, and rates on them are not to be compared with published ones."
    _write(base, COLUMNS, rows, rates_table(rows, caption, headings, kinds))


def rates_table(rows: Sequence[Row], caption: str, headings: Mapping[str, str], kinds: Sequence[str] = ()) -> Table:
    """Rows as a wide table: methods and sources down, tasks across; only tasks that something was reproduced on.

    `headings` are those of columns that are not headed by their task's name. `kinds` are the kinds of episodes that
    tasks are counted by: each has its column, empty where no episode was of it.
    """
    ran = {row.task for row in rows if row.source == "reproduced"} or {row.task for row in rows}
    ran |= set(kinds)
    tasks = sorted(ran, key=lambda task: _rank(task, (*TASK_ORDER, *kinds)))
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        if row.task in ran:
            lines.setdefault((row.method, _source_label(row)), {})[row.task] = _cell(row)
    return Table(
        caption,
        ["method", "source", *(headings.get(task, task) for task in tasks)],
        [[*key, *(cells.get(task, "") for task in tasks)] for key, cells in lines.items()],
    )


def _source_label(row: Row) -> str:
    if row.source == "published":
        return "published (paper)"
    if row.source == "reference":
        return "reference"
    return f"reproduced ({row.scale}), {'held out' if row.protocol == 'held_out' else 'rolling peak'}"


def _cell(row: Row) -> str:
    interval = "" if row.ci_low is None else f" [{row.ci_low:.1f}, {row.ci_high:.1f}]"
    return f"{row.success_rate:.1f}{PARTIAL if row.partial else ''}{interval}"


def _write_perception(base: Path, rows: Sequence[PerceptionRow], scale: str) -> None:
    stages = sorted({row.method for row in rows}, key=lambda method: _rank(method, ("base model", *METHOD_ORDER)))
    games = {row.task: f"{row.task} ({row.games})" for row in rows if row.games}
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        task = games.get(row.task, row.task)
        lines.setdefault((task, row.field), {})[row.method] = f"{row.accuracy:.1f} ({row.n})"
    caption = (
        f"How often each field of the picture is read right, in percent (of how many readings); scale `{scale}`. "
        "The base model answers what it is asked to read; later stages read within their replies, in held-out play."
    )
    if games:
        caption += f" {BASE_GAMES}"
    body = [[*key, *(cells.get(stage, "") for stage in stages)] for key, cells in lines.items()]
    _write(
        base, [field.name for field in fields(PerceptionRow)], rows, Table(caption, ["task", "field", *stages], body)
    )


def _write(base: Path, columns: Sequence[str], rows: Sequence[Row] | Sequence[PerceptionRow], wide: Table) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    tidy = io.StringIO()
    writer = csv.writer(tidy, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_value(getattr(row, column)) for column in columns] for row in rows)
    for suffix, text in ((".csv", tidy.getvalue()), (".md", markdown(wide)), (".tex", latex(wide))):
        atomic_write_text(base.with_suffix(suffix), text)


def _value(value: str | float | None) -> str | float:
    if value is None:
        return ""
    return round(value, 4) if isinstance(value, float) else value

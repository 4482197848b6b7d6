"""What the runs left behind, read back for tables and figures: held-out evaluations, training curves, reading accuracy.

Only the folders that are asked for are read, so a stale folder nearby never shows up in a result. Whatever is missing
or broken in a file is a ValueError that names the file and the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rl4vlm.core.files import read_json, read_json_lines
from rl4vlm.results.game_label import games_played

STYLE_METHODS = {"cot": "RL4VLM", "nocot": "RL4VLM-noCoT", None: "CNN+RL"}
"""The published name of a training run's method, by the style in the name of its folder."""

RUN_NAME = re.compile(r"(?P<task>[^/-]+)(-(?P<style>[a-z]+)-lambda(?P<weight>\d+(\.\d+)?))?-seed(?P<seed>\d+)")
"""How the folder of a training run is named: `NumberLine-cot-lambda0.5-seed1`, and `NumberLine-seed1` of CNN+RL, which
writes no replies that could have a style."""

GAMES_MARK = "@"
"""Comes before the name of a further set of games in the name of an evaluation's folder."""

PAPER_LAMBDA = 0.5
"""λ of the card games in the paper: the headline of a task that was trained with several, unless the caller says."""


@dataclass(frozen=True)
class Evaluation:
    """A held-out evaluation: `summary.json` and the reading counts of `episodes.jsonl` in one folder.

    `method` is the published name without λ; `thought_prob_coef` is λ, None where a method has none; `seed` is the
    training seed, None for a policy that was not trained. `success_rate`, `ci_low` and `ci_high` are in percent. The
    log-probs (nats) are means over steps of the summed log-probability, None for a policy without any. `reading` maps a
    field to (correct, asked). `partial`: fewer episodes were played than asked for.

    `groups` maps a kind of episodes to (won, played), for tasks that are counted by kinds; `overall` is then what
    tables call their rate together. Where games are data, `sources` says where they came from, and `games` which set of
    them was played (`unseen`); `main` says whether these are the task's main ones.
    """

    folder: Path
    method: str
    kind: str
    task: str
    thought_prob_coef: float | None
    seed: int | None
    episodes: int
    successes: int
    success_rate: float
    ci_low: float
    ci_high: float
    mean_return: float
    logprob_thoughts: float | None
    logprob_action: float | None
    perception: Mapping[str, tuple[int, int]]
    partial: bool = False
    groups: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    overall: str | None = None
    sources: tuple[str, ...] = ()
    games: str | None = None
    main: bool = True

    @property
    def data(self) -> str | None:
        """Which games were played (`generated games, unseen`), in words; None for games that are rules."""
        return games_played(self.sources, self.games)


@dataclass(frozen=True)
class CurvePoint:
    """One update of a training run: success over the last `window` training episodes, in percent."""

    env_steps: int
    success_rate: float
    window: int


@dataclass(frozen=True)
class TrainingRun:
    """The learning curve of a PPO or CNN+RL run; updates before the first finished episode are left out."""

    folder: Path
    method: str
    task: str
    thought_prob_coef: float | None
    seed: int
    curve: tuple[CurvePoint, ...]

    @property
    def peak(self) -> CurvePoint | None:
        """The paper's statistic: the highest rolling success, over updates whose window is as full as it ever gets.

        A window of few episodes would win by luck: a run too short to fill its window has its last value as peak.
        """
        if not self.curve:
            return None
        full = max(point.window for point in self.curve)
        return max((point for point in self.curve if point.window == full), key=lambda point: point.success_rate)


Run = TypeVar("Run", Evaluation, TrainingRun)


@dataclass(frozen=True)
class BasePerception:
    """How well the base model reads before SFT: the share of right answers by task and field, of `samples` pictures."""

    samples: int
    shares: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Results:
    """Everything that tables and figures are made of.

    `main_lambda` says by task which λ is the method's own, as opposed to a point of the λ ablation. A task that is not
    named there was trained with one λ, or else has the paper's. `base_readings` are by task, of the base model that it
    started from.
    """

    evaluations: tuple[Evaluation, ...] = ()
    training_runs: tuple[TrainingRun, ...] = ()
    base_perceptions: Mapping[str, BasePerception] = field(default_factory=dict)
    main_lambda: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        *,
        evaluations: Iterable[Path],
        training_runs: Iterable[Path],
        base_perceptions: Mapping[str, Path] | None = None,
        main_lambda: Mapping[str, float] | None = None,
    ) -> Results:
        """Read folders of evaluations and of training runs, and by task its base model's `perception.json`.

        Raises ValueError naming a file (and line) that is missing or broken, a run whose folder's name does not say
        what it holds, or a task trained with several λ of which none is known to be the main one.
        """
        results = cls(
            evaluations=tuple(load_evaluation(folder) for folder in evaluations),
            training_runs=tuple(load_training_run(folder) for folder in training_runs),
            base_perceptions={task: load_base_perception(file) for task, file in (base_perceptions or {}).items()},
            main_lambda=dict(main_lambda or {}),
        )
        for task in results.tasks:
            results.headline_lambda(task)
        return results

    @property
    def tasks(self) -> list[str]:
        """Every task that anything was run on: the published ones first and in their order."""
        known = ["NumberLine", "EZPoints", "Blackjack", "Points24"]
        found = {run.task for run in self.evaluations} | {run.task for run in self.training_runs}
        return sorted(found, key=lambda task: (known.index(task) if task in known else len(known), task))

    def lambdas(self, task: str) -> list[float]:
        """The λ that the task was trained or evaluated with, with thoughts."""
        runs: list[Evaluation | TrainingRun] = [*self.evaluations, *self.training_runs]
        weights = {run.thought_prob_coef for run in runs if run.task == task and run.method == "RL4VLM"}
        return sorted(weight for weight in weights if weight is not None)

    def headline_lambda(self, task: str) -> float | None:
        """The λ whose runs stand for the method; None where the task has no λ. Raises ValueError where unclear."""
        weights = self.lambdas(task)
        if task in self.main_lambda:
            return self.main_lambda[task]
        if len(weights) <= 1:
            return weights[0] if weights else None
        if PAPER_LAMBDA in weights:
            return PAPER_LAMBDA
        raise ValueError(f"{task} was trained with lambda {weights}: main_lambda must say which is the main one")

    def headline_evaluations(self, method: str | None = None, task: str | None = None) -> list[Evaluation]:
        """Evaluations of the methods proper on each task's main games, without further λ; in the order of seeds."""
        found = [run for run in self.evaluations if self._is_headline(run) and run.main]
        return _chosen(found, method, task)

    def evaluations_by_games(self) -> list[Evaluation]:
        """As `headline_evaluations`, with those on further sets of games."""
        return _chosen([run for run in self.evaluations if self._is_headline(run)], None, None)

    def overall_name(self, task: str) -> str:
        """What tables call the rate over all of a task's episodes: its name, unless it is counted by kinds."""
        return next((run.overall for run in self.evaluations if run.task == task and run.overall), task)

    @property
    def overall_headings(self) -> dict[str, str]:
        """What to head the column of `overall_name` with, for tasks that are counted by kinds."""
        return {run.overall: f"{run.task} average" for run in self.evaluations if run.overall}

    @property
    def kinds(self) -> list[str]:
        """The kinds of episodes that tasks are counted by, those that no episode was of included."""
        return list(dict.fromkeys(kind for run in self.evaluations for kind in run.groups))

    def games(self, task: str) -> str | None:
        """Which games a task's results are about (`generated games`), where games are data: of any of its runs."""
        return games_played(source for run in self.evaluations if run.task == task for source in run.sources)

    def headline_runs(self, method: str | None = None, task: str | None = None) -> list[TrainingRun]:
        """Training runs of the methods proper, without further λ; in the order of their seeds."""
        found = [run for run in self.training_runs if self._is_headline(run)]
        return _chosen(found, method, task)

    def _is_headline(self, run: Evaluation | TrainingRun) -> bool:
        # Without thoughts λ weighs nothing, so every λ of such a method is the method itself.
        if run.method != "RL4VLM":
            return True
        return run.thought_prob_coef in (None, self.headline_lambda(run.task))


def _chosen(runs: Sequence[Run], method: str | None, task: str | None) -> list[Run]:
    found = [run for run in runs if method in (None, run.method) and task in (None, run.task)]
    return sorted(found, key=lambda run: -1 if run.seed is None else run.seed)


def load_evaluation(folder: Path) -> Evaluation:
    """Read `summary.json` and `episodes.jsonl`; raises ValueError where they are missing, broken or disagree."""
    file = folder / "summary.json"
    summary = read_json(file)
    where = str(file)
    episodes = _integer(summary, "episodes", where)
    successes = _integer(summary, "successes", where)
    played, won, perception = _count_episodes(folder / "episodes.jsonl")
    if (played, won) != (episodes, successes):
        raise ValueError(
            f"{file} counts {successes} successes in {episodes} episodes, episodes.jsonl beside it {won} in {played}"
        )
    return Evaluation(
        folder=folder,
        method=_string(summary, "method", where).partition(" lambda=")[0],
        kind=_string(summary, "kind", where),
        task=_string(summary, "task", where),
        thought_prob_coef=_optional_number(summary, "lambda", where),
        seed=None if summary.get("seed") is None else _integer(summary, "seed", where),
        episodes=episodes,
        successes=successes,
        success_rate=_number(summary, "success_rate", where),
        ci_low=_number(summary, "ci_low", where),
        ci_high=_number(summary, "ci_high", where),
        mean_return=_number(summary, "mean_return", where),
        logprob_thoughts=_optional_number(summary, "logprob_thoughts", where),
        logprob_action=_optional_number(summary, "logprob_action", where),
        perception=perception,
        partial=bool(summary.get("partial")),
        groups=_groups(summary, where),
        overall=summary.get("overall"),
        sources=tuple(summary.get("data_sources") or ()),
        games=summary.get("games"),
        main=GAMES_MARK not in folder.name,
    )


def _groups(summary: Mapping[str, Any], where: str) -> dict[str, tuple[int, int]]:
    """Won and played, by kind of episodes. Raises ValueError where they do not add up to the whole."""
    found = _mapping(summary, "groups", where) if "groups" in summary else {}
    groups = {
        name: (_integer(counts, "successes", where), _integer(counts, "episodes", where))
        for name, counts in found.items()
    }
    whole = (_integer(summary, "successes", where), _integer(summary, "episodes", where))
    if groups and tuple(map(sum, zip(*groups.values(), strict=True))) != whole:
        raise ValueError(f"{where}: its groups do not add up to {whole[0]} successes in {whole[1]} episodes")
    return groups


def load_training_run(folder: Path) -> TrainingRun:
    """Read `metrics.jsonl` of a PPO or CNN+RL run; what was trained is in the folder's name. Raises ValueError."""
    name = RUN_NAME.fullmatch(folder.name)
    if name is None or name["style"] not in STYLE_METHODS:
        raise ValueError(
            f"{folder} is not named like a PPO run (<task>-<style>-lambda<λ>-seed<n>) or a CNN+RL run (<task>-seed<n>)"
        )
    return TrainingRun(
        folder=folder,
        method=STYLE_METHODS[name["style"]],
        task=name["task"],
        thought_prob_coef=None if name["weight"] is None else float(name["weight"]),
        seed=int(name["seed"]),
        curve=tuple(_curve(folder / "metrics.jsonl")),
    )


def load_base_perception(file: Path) -> BasePerception:
    """Read the base model's `perception.json`: `{"samples": n, "tasks": {task: {field: share}}}`. Raises ValueError."""
    report = read_json(file)
    shares: dict[str, dict[str, float]] = {}
    for task, fields in _mapping(report, "tasks", str(file)).items():
        if not isinstance(fields, dict):
            raise ValueError(f"{file}: {task!r} must map fields to shares, not {fields!r}")
        shares[task] = {name: _number(fields, name, f"{file}: {task}") for name in fields}
    return BasePerception(_integer(report, "samples", str(file)), shares)


def input_files(
    evaluations: Iterable[Path], training_runs: Iterable[Path], base_perceptions: Mapping[str, Path]
) -> dict[str, Path]:
    """The files that `Results.load` reads, by a name for the run record."""
    files = [folder / name for folder in evaluations for name in ("summary.json", "episodes.jsonl")]
    files += [folder / "metrics.jsonl" for folder in training_runs]
    files += dict.fromkeys(base_perceptions.values())
    return {_record_name(file): file for file in files}


def perceptions_record(base_perceptions: Mapping[str, Path]) -> dict[str, str]:
    """By task, which of `input_files` says how its base model reads; for the run record."""
    return {task: _record_name(file) for task, file in base_perceptions.items()}


def _record_name(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


def _curve(file: Path) -> Iterator[CurvePoint]:
    for where, line in read_json_lines(file):
        success = _optional_number(line, "success_rate", where)
        if success is not None:
            yield CurvePoint(_integer(line, "env_steps", where), 100 * success, _integer(line, "window", where))


def _count_episodes(file: Path) -> tuple[int, int, dict[str, tuple[int, int]]]:
    """Episodes, successes, and (correct, asked) by field."""
    episodes = successes = 0
    perception: dict[str, tuple[int, int]] = {}
    for where, line in read_json_lines(file):
        episodes += 1
        if "success" not in line:
            raise ValueError(f"{where}: no 'success'")
        successes += bool(line["success"])
        for name, counts in line.get("perception", {}).items():
            if not (isinstance(counts, list) and len(counts) == 2 and all(isinstance(n, int) for n in counts)):
                raise ValueError(f"{where}: perception of {name!r} must be [correct, asked], not {counts!r}")
            correct, asked = perception.get(name, (0, 0))
            perception[name] = correct + counts[0], asked + counts[1]
    return episodes, successes, perception


def _mapping(record: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = record.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {key!r} must be an object, not {value!r}")
    return value


def _string(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key!r} must be a text, not {value!r}")
    return value


def _number(record: Mapping[str, Any], key: str, where: str) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: {key!r} must be a number, not {value!r}")
    return float(value)


def _optional_number(record: Mapping[str, Any], key: str, where: str) -> float | None:
    return None if record.get(key) is None else _number(record, key, where)


def _integer(record: Mapping[str, Any], key: str, where: str) -> int:
    value = _number(record, key, where)
    if not value.is_integer():
        raise ValueError(f"{where}: {key!r} must be a whole number, not {value!r}")
    return int(value)

"""All results that tables and figures are made from, and which of them count as results of a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl4vlm.config.methods import rank
from rl4vlm.core.files import RECORD
from rl4vlm.results.game_label import games_played
from rl4vlm.results.provenance import EPISODES, METRICS, SUMMARY
from rl4vlm.results.published import Rate, reference_rates
from rl4vlm.results.read import (
    BasePerception,
    Evaluation,
    Run,
    TrainingRun,
    load_base_perception,
    load_evaluation,
    load_training_run,
)
from rl4vlm.tasks.base import RULES
from rl4vlm.tasks.formula_game import FormulaGame
from rl4vlm.tasks.registry import get_task_class

PANEL_ORDER = ("NumberLine", "EZPoints", "Blackjack", "Points24")
"""The tasks in the order of panels in the paper's figures; other tasks follow by name."""


@dataclass(frozen=True)
class Results:
    """Evaluations, training runs and what the base models read.

    Attributes:
        base_perceptions: by task, how well the base model that it started from reads images.
        thought_prob_coef: by task, the λ of the method itself; runs with another λ belong to the λ ablation alone. A
            task that was trained with one λ need not be named.
        variants: evaluations of variants of the method, which do not count as results of the method.
    """

    evaluations: tuple[Evaluation, ...] = ()
    training_runs: tuple[TrainingRun, ...] = ()
    base_perceptions: Mapping[str, BasePerception] = field(default_factory=dict)
    thought_prob_coef: Mapping[str, float] = field(default_factory=dict)
    variants: tuple[Evaluation, ...] = ()

    @classmethod
    def load(
        cls,
        *,
        evaluations: Iterable[Path],
        training_runs: Iterable[Path],
        base_perceptions: Mapping[str, Path] | None = None,
        thought_prob_coef: Mapping[str, float] | None = None,
    ) -> Results:
        """Read folders of evaluations and of training runs, and by task the `perception.json` of its base model.

        Raises:
            ValueError: a file is missing or broken; two folders hold the same run; a task was trained with several λ
                and none is named as the method's own, or the λ named is none of them.
        """
        played = [load_evaluation(folder) for folder in evaluations]
        trained = [load_training_run(folder) for folder in training_runs]
        _refuse_copies((run.folder, (*_what(run), run.games_label)) for run in played)
        _refuse_other_rules(played)
        _refuse_copies((run.folder, _what(run)) for run in trained)
        results = cls(
            evaluations=tuple(run for run in played if not run.variant),
            training_runs=tuple(run for run in trained if not run.variant),
            variants=tuple(run for run in played if run.variant),
            base_perceptions={task: load_base_perception(file) for task, file in (base_perceptions or {}).items()},
            thought_prob_coef=dict(thought_prob_coef or {}),
        )
        for task in results.tasks:
            own, found = results.lambda_of(task), results.lambdas(task)
            if found and own not in found:
                raise ValueError(
                    f"{task} has no run with λ {own:g}, which was named as the method's own; it has "
                    f"{', '.join(f'{one:g}' for one in found)}"
                )
        return results

    @property
    def tasks(self) -> list[str]:
        """Every task with a result, in the order of the paper's figures."""
        return sorted({run.task for run in self._runs}, key=lambda task: rank(task, PANEL_ORDER))

    @property
    def _runs(self) -> list[Evaluation | TrainingRun]:
        return [*self.evaluations, *self.training_runs]

    def lambdas(self, task: str) -> list[float]:
        """Every λ that a task was trained or evaluated with, with thoughts."""
        runs = [run for run in self._runs if run.task == task and run.method == "RL4VLM"]
        return sorted({run.thought_prob_coef for run in runs if run.thought_prob_coef is not None})

    def lambda_of(self, task: str) -> float | None:
        """The λ of the method itself on a task; None if nothing was trained. Raises ValueError if it is not known."""
        if task in self.thought_prob_coef:
            return self.thought_prob_coef[task]
        found = self.lambdas(task)
        if len(found) > 1:
            raise ValueError(
                f"{task} was trained with several λ ({', '.join(f'{one:g}' for one in found)}): name the method's own, "
                f"e.g. --thought-prob-coef {task}={found[0]:g}"
            )
        return found[0] if found else None

    def main_evaluations(self, method: str | None = None, task: str | None = None) -> list[Evaluation]:
        """Evaluations at the method's own λ on each task's main games, in the order of training seeds."""
        return [run for run in self.evaluations_on_all_games(method, task) if run.on_main_games]

    def evaluations_on_all_games(self, method: str | None = None, task: str | None = None) -> list[Evaluation]:
        """The evaluations of `main_evaluations`, and those on further sets of games."""
        return self._at_own_lambda(self.evaluations, method, task)

    def main_runs(self, method: str | None = None, task: str | None = None) -> list[TrainingRun]:
        """Training runs at the method's own λ, in the order of their seeds."""
        return self._at_own_lambda(self.training_runs, method, task)

    def _at_own_lambda(self, runs: Sequence[Run], method: str | None, task: str | None) -> list[Run]:
        chosen = [
            run
            for run in runs
            if method in (None, run.method)
            and task in (None, run.task)
            # Without thoughts λ has no effect, so all runs of such a method are the method itself.
            and (run.method != "RL4VLM" or run.thought_prob_coef in (None, self.lambda_of(run.task)))
        ]
        return sorted(chosen, key=lambda run: -1 if run.seed is None else run.seed)

    def overall_name(self, task: str) -> str:
        """Name in tables of the rate over all episodes of a task: the task's name, unless it is counted by kinds."""
        return next((run.overall for run in self.evaluations if run.task == task and run.overall), task)

    @property
    def overall_headings(self) -> dict[str, str]:
        """The column heading of each `overall_name` that is not a task's name."""
        return {run.overall: f"{run.task} average" for run in self.evaluations if run.overall}

    @property
    def kinds(self) -> list[str]:
        """All kinds of episodes that are counted separately, including kinds without any episode."""
        return list(dict.fromkeys(kind for run in self.evaluations for kind in run.groups))

    def reference_rates(self) -> list[Rate]:
        """The enumerated rates of simple policies, without those of formula games that were played by other rules."""
        other = {run.task for run in self.evaluations if run.rules.get("env", {}).get("rules", RULES[0]) != RULES[0]}
        return [
            rate
            for rate in reference_rates()
            # Games without formulas ignore the option.
            if rate.task not in other or not issubclass(get_task_class(rate.task), FormulaGame)
        ]

    def reference_rate(self, method: str, task: str) -> float | None:
        """The rate of a policy in `reference_rates`, in percent; None if it is not there."""
        return next((rate.success_rate for rate in self.reference_rates() if rate[:2] == (method, task)), None)

    def games(self, task: str) -> str | None:
        """Which games a task was played on (`generated games`); None for a task whose games are not data."""
        return games_played(source for run in self._evaluations_of(task) for source in run.data_sources)

    def _evaluations_of(self, task: str) -> list[Evaluation]:
        return [run for run in self.evaluations if run.task == task]


def _what(run: Evaluation | TrainingRun) -> tuple[Any, ...]:
    return run.method, run.task, run.thought_prob_coef, run.seed, run.variant


def _refuse_copies(runs: Iterable[tuple[Path, tuple[Any, ...]]]) -> None:
    """Raise ValueError if two folders hold the same run, or one is given twice: its episodes would count twice."""
    seen: dict[tuple[Any, ...], Path] = {}
    for folder, what in runs:
        if what in seen:
            method, task, _, seed, *_ = what
            which = "" if seed is None else f" of training seed {seed}"
            raise ValueError(f"{seen[what]} and {folder} are both {method} on {task}{which}: name or keep only one")
        seen[what] = folder


def _refuse_other_rules(played: Sequence[Evaluation]) -> None:
    """Raise ValueError if the games of one task and set were played by different rules or with other prompts.

    Their episodes have the same seeds, and would be compared as the same episodes.
    """
    first: dict[tuple[Any, ...], Evaluation] = {}
    for run in played:
        # A policy without language has no prompt.
        for what in ("env", *(["prompt"] if run.kind not in ("cnn", "scripted") else [])):
            if what not in run.rules:
                continue
            one = first.setdefault((what, run.task, run.games), run)
            if one.rules[what] != run.rules[what]:
                raise ValueError(
                    f"{one.folder} and {run.folder} are of the same episodes of {run.task}, but not of the same game: "
                    f"{what} {one.rules[what]} and {run.rules[what]}"
                )


def input_files(
    evaluations: Iterable[Path], training_runs: Iterable[Path], base_perceptions: Mapping[str, Path]
) -> dict[str, Path]:
    """The files that `Results.load` reads, by their names in the run record."""
    files = [folder / name for folder in evaluations for name in (SUMMARY, EPISODES)]
    files += [folder / name for folder in training_runs for name in (METRICS, RECORD)]
    files += dict.fromkeys(base_perceptions.values())
    return {_record_name(file): file for file in files}


def perceptions_record(base_perceptions: Mapping[str, Path]) -> dict[str, str]:
    """By task, the name in `input_files` of its base model's `perception.json`; for the run record."""
    return {task: _record_name(file) for task, file in base_perceptions.items()}


def _record_name(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"

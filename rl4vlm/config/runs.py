"""The runs that a config asks for: trainings and evaluations, each with the name of its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl4vlm.config.load import api_style, evaluation_sets, lambda_ablation, stage_settings, thought_prob_coef
from rl4vlm.config.run_names import CNN_NAME, PPO_NAME, SFT_NAME
from rl4vlm.config.schema import STAGES
from rl4vlm.config.scripted import SCRIPTED
from rl4vlm.config.settings import build_settings, plain_settings
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.core.games import name_on
from rl4vlm.core.types import Style


@dataclass(frozen=True)
class PPORun:
    """One PPO training run, of the method or of one of `variants`; `name` is its folder below `results/ppo`."""

    task: str
    style: str
    thought_prob_coef: float
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        variant, lam = variant_text(self.variant), lambda_text(self.thought_prob_coef)
        return PPO_NAME.format(task=self.task, style=self.style, variant=variant, lam=lam, seed=self.seed)


@dataclass(frozen=True)
class SFTRun:
    """One supervised warm start; `name` is its folder below `results/sft`."""

    task: str
    style: str
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        variant = variant_text(self.variant)
        return SFT_NAME.format(task=self.task, style=self.style, variant=variant, seed=self.seed)


@dataclass(frozen=True)
class CNNRun:
    """One training run of the CNN+RL baseline; `name` is its folder below `results/cnn`."""

    task: str
    seed: int

    @property
    def name(self) -> str:
        return CNN_NAME.format(task=self.task, seed=self.seed)


@dataclass(frozen=True)
class EvaluationRun:
    """One held-out evaluation; `name` is its folder below `results/eval`, `kind` is scripted, sft, ppo, cnn, http or
    api.

    `ppo` is the training run that made the policy, for kinds ppo and http (the same checkpoint, asked over HTTP).
    `games` is the set of games, of those that `evaluation.sets` names for the task; the first of them is "".
    `variant` is that of the training.
    """

    name: str
    kind: str
    task: str
    style: str
    ppo: PPORun | None = None
    games: str = ""
    variant: str = ""


def variant_text(variant: str) -> str:
    """The part of a run's name that says its variant; empty for the method itself."""
    return f"+{variant}" if variant else ""


def lambda_text(value: float) -> str:
    """λ as written in the names of runs: with at most 6 decimals, and without an exponent or trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def ppo_runs(config: Mapping[str, Any]) -> list[PPORun]:
    """All PPO runs: every task, style and seed at the task's own λ, then the λ ablation and variants (with thoughts).

    Each run is listed once. The ablation of a task that is not among `tasks` is left out.
    """
    seeds = config["seeds"]
    main = [
        PPORun(task, style, thought_prob_coef(config, task), seed)
        for task in config["tasks"]
        for style in config["styles"]
        for seed in seeds
    ]
    ablation = [
        PPORun(task, Style.COT.value, float(value), seed)
        for task, values in lambda_ablation(config).items()
        if task in config["tasks"]
        for value in values
        for seed in seeds
    ]
    return list(dict.fromkeys(main + ablation + _variant_runs(config)))


def _variant_runs(config: Mapping[str, Any]) -> list[PPORun]:
    return [
        PPORun(task, Style.COT.value, thought_prob_coef(config, task, name), seed, name)
        for name in config.get("variants") or {}
        for task in config["tasks"]
        if any(_changes(config, stage, task, name) for stage in ("sft", "ppo"))
        for seed in config["seeds"]
    ]


def _changes(config: Mapping[str, Any], stage: str, task: str, variant: str) -> bool:
    """Whether a variant differs from the method in its settings of a stage."""
    own, other = (
        plain_settings(build_settings(STAGES[stage], stage_settings(config, stage, task, name)))
        for name in ("", variant)
    )
    return own != {**other, "variant": ""}


def start_of(config: Mapping[str, Any], run: PPORun) -> SFTRun:
    """The warm start of a PPO run: the method's own, unless the run's variant changes it."""
    changed = bool(run.variant) and _changes(config, "sft", run.task, run.variant)
    return SFTRun(run.task, run.style, run.seed, run.variant if changed else "")


def sft_runs(config: Mapping[str, Any]) -> list[SFTRun]:
    """The warm starts: of every task, style and seed, each with the PPO runs of the same seed that start from it."""
    main = [
        SFTRun(task, style, seed) for task in config["tasks"] for style in config["styles"] for seed in config["seeds"]
    ]
    return list(dict.fromkeys(main + [start_of(config, run) for run in ppo_runs(config)]))


def kept_policies(config: Mapping[str, Any]) -> list[tuple[PPORun, str]]:
    """The policies that PPO runs keep beside their last one: the run, and the policy's folder in its `checkpoints/`.

    Raises:
        ValueError: some runs would keep policies and others none. One rule makes all runs, and all its jobs have equal
            outputs.
    """
    runs = ppo_runs(config)
    kept = [build_settings(PPOSettings, stage_settings(config, "ppo", run.task, run.variant)).kept for run in runs]
    none = [run.name for run, names in zip(runs, kept, strict=True) if not names]
    if none and any(kept):
        raise ValueError(f"keep_checkpoints: {none[0]} would keep no policy, other runs some; lower it")
    return [(run, name) for run, names in zip(runs, kept, strict=True) for name in names]


def cnn_runs(config: Mapping[str, Any]) -> list[CNNRun]:
    """The runs of the CNN+RL baseline: every task except those in `cnn.skip`, every seed; none if `cnn` is null."""
    if not config.get("cnn"):
        return []
    skipped = config["cnn"].get("skip", [])
    return [CNNRun(task, seed) for task in config["tasks"] if task not in skipped for seed in config["seeds"]]


def evaluation_runs(config: Mapping[str, Any]) -> list[EvaluationRun]:
    """All held-out evaluations: of scripted policies, of each SFT, PPO and CNN+RL run, and those over HTTP."""
    tasks = config["tasks"]
    ours = [
        *(
            EvaluationRun(f"{name}-{task}", "scripted", task, Style.COT.value)
            for name, policy in SCRIPTED.items()
            for task in tasks
            if policy.plays(task)
        ),
        *(
            EvaluationRun(f"sft-{run.name}", "sft", run.task, run.style, variant=run.variant)
            for run in sft_runs(config)
        ),
        *(
            EvaluationRun(f"ppo-{run.name}", "ppo", run.task, run.style, run, variant=run.variant)
            for run in ppo_runs(config)
        ),
        *(EvaluationRun(f"cnn-{run.name}", "cnn", run.task, Style.ACTION_ONLY.value) for run in cnn_runs(config)),
    ]
    return [
        *ours,
        *_on_further_games(config, ours),
        *(EvaluationRun(f"http-{run.name}", "http", run.task, run.style, run) for run in http_runs(config)),
        *api_runs(config),
    ]


def _on_further_games(config: Mapping[str, Any], runs: Sequence[EvaluationRun]) -> list[EvaluationRun]:
    """The same evaluations on each further set of games of their task, after the first."""
    return [
        replace(run, name=name_on(run.name, games), games=games)
        for run in runs
        for games in list(evaluation_sets(config, run.task))[1:]
    ]


def http_runs(config: Mapping[str, Any]) -> list[PPORun]:
    """The PPO runs whose checkpoint is also evaluated over HTTP: the first main run of each task in `over_http`."""
    tasks = (config.get("over_http") or {}).get("tasks") or []
    first: dict[str, PPORun] = {}
    for run in main_runs(config):
        first.setdefault(run.task, run)
    return [first[task] for task in tasks if task in first]


def api_runs(config: Mapping[str, Any]) -> list[EvaluationRun]:
    """The evaluations of models of `api_models` that have their API key or need none, or have a result already.

    Other models are left out, so that tables show only their published rows.
    """
    models = config.get("api_models") or {}
    runs = []
    for model, entry in models.items():
        tasks = [task for task in (entry.get("tasks") or config["tasks"]) if task in config["tasks"]]
        first = [EvaluationRun(f"api-{model}-{task}", "api", task, api_style(config, model)) for task in tasks]
        both = [*first, *_on_further_games(config, first)]
        runs += both if _has_key(entry) else [run for run in both if _has_result(config, run)]
    return runs


def _has_key(entry: Mapping[str, Any]) -> bool:
    variable = entry.get("key_env")
    return variable is None or bool(os.environ.get(variable))


def _has_result(config: Mapping[str, Any], run: EvaluationRun) -> bool:
    return Path(config["results_dir"], "eval", run.name, "summary.json").is_file()


def main_runs(config: Mapping[str, Any]) -> list[PPORun]:
    """The PPO runs of the method itself, at their task's own λ."""
    return [
        run
        for run in ppo_runs(config)
        if not run.variant and run.thought_prob_coef == thought_prob_coef(config, run.task)
    ]


def ablation_runs(config: Mapping[str, Any]) -> list[PPORun]:
    """The PPO runs that the λ ablation compares, those at the task's own λ included."""
    tasks = lambda_ablation(config)
    return [run for run in ppo_runs(config) if run.task in tasks and run.style == Style.COT and not run.variant]

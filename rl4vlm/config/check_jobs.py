"""Checks that the jobs of a config get what they need: packages, GPUs and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rl4vlm.config.load import cnn_evaluation_settings, stage_settings
from rl4vlm.config.runs import cnn_runs
from rl4vlm.config.schema import STAGES
from rl4vlm.config.stages.ppo import PPOSettings

LAUNCHED = ("sft", "ppo")
"""The stages whose work `resources.<stage>.processes` can share."""


def unmet_needs(config: Mapping[str, Any], installed: Callable[[str], bool]) -> Iterator[str]:
    """A message for each package, GPU or process that a job would lack.

    Args:
        config: a config whose values have their types.
        installed: whether jobs will find a package, by its name.
    """
    jobs = list(_jobs(config))
    yield from _missing_packages(jobs, installed)
    yield from _wrong_processes(config, jobs)
    yield from _hidden_devices(config, jobs)


class Job(NamedTuple):
    """A kind of job, which runs once per seed or model.

    Attributes:
        place: what messages call it.
        granted: the entry of `resources` with what it may use.
        settings: its settings, without those that keep their defaults.
    """

    place: str
    granted: str
    settings: Mapping[str, Any]


def _jobs(config: Mapping[str, Any]) -> Iterator[Job]:
    """The jobs of a config whose settings may name a package or a device."""
    for task in config["tasks"]:
        base = stage_settings(config, "base_model", task)
        if base.get("source") == "pretrain":
            yield Job(f"base_model for {task}", "base_model", base.get("settings", {}))
        for stage in STAGES:
            if config[stage] is not None:
                yield Job(f"{stage} for {task}", stage, stage_settings(config, stage, task))
        for variant, changed in config["variants"].items():
            # What a variant does not change is named for the method itself.
            for stage in (stage for stage in LAUNCHED if changed[stage]):
                settings = stage_settings(config, stage, task, variant)
                yield Job(f"variants.{variant} for {task}, {stage}", stage, settings)
    for task in {run.task: None for run in cnn_runs(config)}:
        # Granted what the training is: a small network needs no GPU.
        yield Job(f"evaluation of CNN+RL for {task}", "cnn", cnn_evaluation_settings(config, task))


def _missing_packages(jobs: Sequence[Job], installed: Callable[[str], bool]) -> Iterator[str]:
    """Extras of this package that a setting needs. A job would miss them only when its model is loaded."""
    for place, _, settings in jobs:
        needed = [(f"loggers={name}", name, name) for name in settings.get("loggers") or ()]
        if settings.get("quantize"):
            needed.append((f"quantize={settings['quantize']}", "bitsandbytes", "quantized"))
        for setting, package, extra in needed:
            if not installed(package):
                where = f"it comes with this package's extra {extra!r} (pip install -e '.[{extra}]')"
                yield f"{place}: {setting} needs {package}; {where}"
        # vLLM is no extra of this package, because their pinned requirements conflict.
        if settings.get("engine") == "vllm" and not installed("vllm"):
            yield f"{place}: engine=vllm needs vllm, in a separate environment (docs/install.md)"


def _hidden_devices(config: Mapping[str, Any], jobs: Sequence[Job]) -> Iterator[str]:
    """Jobs whose device is a GPU although they ask for none, so that they see none (`stage_command`)."""
    for place, granted, settings in jobs:
        device = settings.get("device", "auto")
        if device.startswith("cuda") and not config["resources"][granted]["gpu"]:
            yield f"{place}: device is {device!r}, but resources.{granted}.gpu is 0, which hides all GPUs"


def _wrong_processes(config: Mapping[str, Any], jobs: Sequence[Job]) -> Iterator[str]:
    """Numbers of processes that do not fit the GPUs, nodes or environments of a training.

    Each process takes one GPU if the job has any, and in PPO at least one environment. Without this check, such a job
    would fail only after it had loaded its model.
    """
    for stage, asked in config["resources"].items():
        place, processes, gpus = f"resources.{stage}", asked["processes"], asked["gpu"]
        if processes > 1 and stage not in LAUNCHED:
            yield f"{place}.processes: only {' and '.join(LAUNCHED)} can run in several processes"
        if processes > 1 and not Path(config["accelerate"]).is_file():
            yield f"accelerate: there is no file {config['accelerate']!r}, and {place} asks for {processes} processes"
        if stage in LAUNCHED and gpus and gpus != processes:
            yield f"{place}: gpu is {gpus} and processes {processes}; each process takes one GPU"
        if processes % asked["nodes"]:
            yield f"{place}: processes is {processes} and nodes {asked['nodes']}; each node gets equally many"
    processes = config["resources"]["ppo"]["processes"]
    for place, granted, settings in jobs:
        if granted != "ppo":
            continue
        num_envs = settings.get("num_envs", PPOSettings.num_envs)
        if num_envs < processes:
            yield (
                f"{place}: num_envs is {num_envs} and resources.ppo.processes {processes}; each process needs an "
                "environment"
            )
        if processes > 1 and settings.get("engine") == "vllm":
            yield f"{place}: engine=vllm works in one process, but resources.ppo.processes is {processes}"

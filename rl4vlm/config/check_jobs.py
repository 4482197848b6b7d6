"""Checks that the jobs of a config get what they need: packages, GPUs and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rl4vlm.config.load import merge, stage_settings
from rl4vlm.config.schema import STAGES

LAUNCHED = ("sft", "ppo")
"""The stages whose work `resources.<stage>.processes` can share."""


def unmet_needs(config: Mapping[str, Any], installed: Callable[[str], bool]) -> Iterator[str]:
    """A message for each package, GPU or process that a job would lack.

    Args:
        config: a config whose values have their types.
        installed: whether jobs will find a package, by its name.
    """
    yield from _missing_packages(config, installed)
    yield from _wrong_processes(config)
    yield from _hidden_devices(config)


def _missing_packages(config: Mapping[str, Any], installed: Callable[[str], bool]) -> Iterator[str]:
    """Extras of this package that a setting needs. A job would miss them only when its model is loaded."""
    for stage in (stage for stage in STAGES if config[stage] is not None):
        for task in config["tasks"]:
            settings = stage_settings(config, stage, task)
            needed = [(f"loggers={name}", name, name) for name in settings.get("loggers") or ()]
            if settings.get("quantize"):
                needed.append((f"quantize={settings['quantize']}", "bitsandbytes", "quantized"))
            for setting, package, extra in needed:
                if not installed(package):
                    where = f"it comes with this package's extra {extra!r} (pip install -e '.[{extra}]')"
                    yield f"{stage} for {task}: {setting} needs {package}; {where}"
            # vLLM is no extra of this package, because their pinned requirements conflict.
            if settings.get("engine") == "vllm" and not installed("vllm"):
                yield f"{stage} for {task}: engine=vllm needs vllm, in a separate environment (docs/install.md)"


def _hidden_devices(config: Mapping[str, Any]) -> Iterator[str]:
    """Stages whose device is a GPU although their jobs ask for none, so that they see none (`stage_command`)."""
    for stage in (stage for stage in STAGES if config[stage] is not None and stage in config["resources"]):
        if config["resources"][stage]["gpu"]:
            continue
        for task in config["tasks"]:
            device = stage_settings(config, stage, task).get("device", "auto")
            if device.startswith("cuda"):
                yield f"{stage} for {task}: device is {device!r}, but resources.{stage}.gpu is 0, which hides all GPUs"


def _wrong_processes(config: Mapping[str, Any]) -> Iterator[str]:
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
    for task in config["tasks"]:
        settings = merge({"num_envs": processes}, stage_settings(config, "ppo", task))
        if settings["num_envs"] < processes:
            yield (
                f"ppo: num_envs is {settings['num_envs']} for {task} and resources.ppo.processes {processes}; each "
                f"process needs an environment (ppo.defaults.num_envs, ppo.per_task.{task}.num_envs)"
            )
        if processes > 1 and settings.get("engine") == "vllm":
            yield f"ppo for {task}: engine=vllm works in one process, but resources.ppo.processes is {processes}"

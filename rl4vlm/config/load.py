"""Config files, and what a config says to a stage about a task.

The workflow validates a config by its schema; here it is merged and taken apart by stage and task. Settings dataclasses
check the values, `rl4vlm.config.runs` lists the runs that a config asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from rl4vlm.core.types import Style


def load_config(paths: Iterable[Path]) -> dict[str, Any]:
    """Read YAML files and merge each over those before it. Raises ValueError naming a file that is no mapping."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, _read(Path(path)))
    return merged


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"config {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not keys with values")
    return content


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: mappings merge key by key, anything else is replaced. Neither argument is changed."""
    merged = deepcopy(dict(below))
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(old, value)
        else:
            merged[key] = deepcopy(value)
    return merged


TASK_OPTIONS = {
    "sft_data": ("env", "prompt"),
    "ppo": ("env", "prompt"),
    "cnn": ("env",),
    "evaluation": ("env", "prompt"),
}
"""What each stage that plays takes from `task_options`, so that no model is tested on what it was not trained on."""


def stage_settings(config: Mapping[str, Any], stage: str, task: str) -> dict[str, Any]:
    """A stage's settings for a task: what `per_task` says of it over the stage's `defaults`, then the task's options.

    Raises ValueError for an unknown stage.
    """
    if stage not in config:
        raise ValueError(f"config has no stage {stage!r}")
    options = task_options(config, task)
    shared = {key: options[key] for key in TASK_OPTIONS.get(stage, ()) if options.get(key)}
    return merge(_for_task(config[stage] or {}, task), shared)


def task_options(config: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What `task_options` says of a task: arguments of its environment (`env`) and words of its prompt (`prompt`).

    In the former, `{results_dir}` in a text is filled in.
    """
    found = _for_task(config.get("task_options") or {}, task)
    folder = config.get("results_dir", "")
    env = {
        name: value.replace("{results_dir}", folder) if isinstance(value, str) else value
        for name, value in found.get("env", {}).items()
    }
    return {**found, "env": env} if env else found


def _for_task(section: Mapping[str, Any], task: str) -> dict[str, Any]:
    return merge(section.get("defaults") or {}, (section.get("per_task") or {}).get(task) or {})


def evaluation_sets(config: Mapping[str, Any], task: str) -> dict[str, dict[str, Any]]:
    """The sets of games that a task is evaluated on, by name, each with the environment's arguments for it."""
    return dict((config.get("evaluation", {}).get("sets") or {}).get(task) or {})


def evaluation_settings(config: Mapping[str, Any], task: str, games: str = "") -> dict[str, Any]:
    """Settings of a task's evaluation on a set of games, the first one unless named. Raises ValueError for another."""
    sets, settings = evaluation_sets(config, task), stage_settings(config, "evaluation", task)
    if games and games not in sets:
        raise ValueError(f"config, evaluation.sets.{task}: no set {games!r}; there are {', '.join(sets) or 'none'}")
    name = games or next(iter(sets), "")
    return merge(settings, {"games": name, "env": sets[name]}) if name else settings


API_ENTRY = ("tasks", "style")
"""What an entry of `api_models` says of where it is evaluated."""
API_PLAY = ("episodes", "num_envs", "temperature", "max_new_tokens")
"""What it may set of an evaluation; all else in it is `ApiSettings`."""


def api_settings(config: Mapping[str, Any], model: str, task: str, games: str = "") -> dict[str, Any]:
    """Settings of the evaluation of a model of `api_models`: the stage's, with what its entry says over them.

    Replies are kept in `api_cache` beside the results. As many episodes are played at once as there are requests under
    way, unless the entry says otherwise. Raises ValueError for a model that has no entry.
    """
    models = config.get("api_models") or {}
    if model not in models:
        known = f"there are {', '.join(models)}" if models else "there are none yet"
        raise ValueError(f"config, api_models: no model {model!r}; {known} (docs/api-models.md says how to add one)")
    entry = models[model]
    settings = merge(
        evaluation_settings(config, task, games), {name: entry[name] for name in API_PLAY if name in entry}
    )
    reached = {name: value for name, value in entry.items() if name not in (*API_ENTRY, *API_PLAY)}
    if "num_envs" not in entry and "concurrency" in entry:
        settings["num_envs"] = entry["concurrency"]
    return merge(settings, {"api": {"cache": _api_cache(config), **reached}})


def api_style(config: Mapping[str, Any], model: str) -> str:
    """How a model of `api_models` is to write its replies; with thoughts unless its entry says otherwise."""
    return str(((config.get("api_models") or {}).get(model) or {}).get("style", Style.COT))


def http_settings(config: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Settings of the evaluation of a trained checkpoint over HTTP: the stage's, with what `over_http` says."""
    here = config["over_http"]
    settings = merge(evaluation_settings(config, task), {name: here[name] for name in API_PLAY if name in here})
    return merge(settings, {"api": {"cache": _api_cache(config), "concurrency": here["concurrency"]}})


CNN_EVALUATION = ("episodes", "num_envs", "seed_base", "games", "env", "device")
"""What an evaluation's settings say to a policy without a language model."""


def cnn_evaluation_settings(config: Mapping[str, Any], task: str, games: str = "") -> dict[str, Any]:
    """Settings of the evaluation of a CNN+RL policy: the stage's episodes, at the temperature that it was trained with.

    Those that concern a language model are left out, so that changing one evaluates nothing again here.
    """
    found = evaluation_settings(config, task, games)
    played = {name: found[name] for name in CNN_EVALUATION if name in found}
    return {**played, "temperature": stage_settings(config, "cnn", task)["temperature"]}


def _api_cache(config: Mapping[str, Any]) -> str:
    return f"{config['results_dir']}/api_cache"


def thought_prob_coef(config: Mapping[str, Any], task: str) -> float:
    """λ of a task's main runs."""
    return float(stage_settings(config, "ppo", task)["thought_prob_coef"])


def lambda_ablation(config: Mapping[str, Any]) -> dict[str, list[float]]:
    """The values of the λ ablation by task; empty if the config asks for none."""
    return dict((config.get("ablations") or {}).get("lambda") or {})


def check_schema(config: Mapping[str, Any], schema: Path) -> None:
    """Raise ValueError with the place and the reason of everything in a config that its JSON schema does not allow."""
    from jsonschema import Draft202012Validator

    errors = sorted(Draft202012Validator(_read(schema)).iter_errors(config), key=lambda error: list(error.path))
    if errors:
        places = [f"config, {'.'.join(map(str, error.path)) or 'top level'}: {error.message}" for error in errors]
        raise ValueError("\n".join(places))


def check_tasks(config: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ValueError for a task that the config names anywhere and that is not `known`; a schema cannot tell."""
    named = {
        "tasks": config["tasks"],
        "ablations.lambda": lambda_ablation(config),
        "cnn.skip": (config.get("cnn") or {}).get("skip", []),
        **{f"api_models.{model}": entry.get("tasks", []) for model, entry in (config.get("api_models") or {}).items()},
    }
    for stage, section in config.items():
        if isinstance(section, Mapping) and isinstance(section.get("per_task"), Mapping):
            named[f"{stage}.per_task"] = section["per_task"]
    for place, tasks in named.items():
        for task in tasks:
            if task not in known:
                raise ValueError(f"config, {place}: unknown task {task!r}; known are {', '.join(known)}")


LAUNCHED = ("sft", "ppo")
"""The stages that `resources.<stage>.processes` can share out."""


def check_processes(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a training whose processes could not all work: it would only say so on the machine that it
    was given, its model loaded.

    Each process takes a GPU, where the job has any, and of PPO at least one environment.
    """
    for stage, asked in config["resources"].items():
        place, processes, gpus = f"config, resources.{stage}", asked.get("processes", 1), asked["gpu"]
        if processes > 1 and stage not in LAUNCHED:
            raise ValueError(f"{place}.processes: only {' and '.join(LAUNCHED)} are shared by several processes")
        if stage in LAUNCHED and gpus and gpus != processes:
            raise ValueError(f"{place}: gpu is {gpus} and processes {processes}; each process takes one GPU")
    processes = config["resources"]["ppo"].get("processes", 1)
    for task in config["tasks"]:
        envs = stage_settings(config, "ppo", task).get("num_envs", processes)
        if envs < processes:
            raise ValueError(
                f"config, ppo: num_envs is {envs} for {task} and resources.ppo.processes {processes}; each process "
                f"needs an environment (ppo.defaults.num_envs, ppo.per_task.{task}.num_envs)"
            )

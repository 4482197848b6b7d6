"""Config files, and what a config says to a stage about a task.

`rl4vlm.config.check` checks a config, `rl4vlm.config.runs` lists the runs that it asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any

from rl4vlm.config.stages.evaluation import VLM_OPTIONS
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.core.files import read_yaml
from rl4vlm.core.nearest import did_you_mean
from rl4vlm.core.types import Style

SCALES = "scales"
"""The folder beside a config in which each scale has a file."""


def load_config(paths: Sequence[Path]) -> dict[str, Any]:
    """Read YAML files and merge each over those before it, the first over the scale that they name.

    The scale's file is looked for in the folder `scales` beside the first file. Raises ValueError naming a file that is
    no mapping, or a scale that has no file.
    """
    return with_scale([_read(Path(path)) for path in paths], Path(paths[0]).parent / SCALES) if paths else {}


def with_scale(layers: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """`layers`, each over those before it, the first over the file in `folder` of the scale that they name.

    Raises ValueError with the nearest names if there is no such file.
    """
    merged = reduce(merge, layers, dict[str, Any]())
    scale = merged.get("scale")
    if scale is None:
        return merged
    file = folder / f"{scale}.yaml"
    if not file.is_file():
        there = sorted(path.stem for path in folder.glob("*.yaml"))
        raise ValueError(f"config, scale: {folder} has no scale {scale!r}; {did_you_mean(scale, there)}")
    # One by one: `merged` no longer shows what a layer drops by null if a later layer sets it again.
    return reduce(merge, layers, dict(_read(file)))


def _read(path: Path) -> Mapping[str, Any]:
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not keys with values")
    return content


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: mappings merge key by key, anything else is replaced. Neither argument is changed.

    A `revision` is of one `source`: another source does not inherit it.
    """
    merged = deepcopy(dict(below))
    if above.get("source", merged.get("source")) != merged.get("source"):
        merged.pop("revision", None)
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
"""The entries of `task_options` that each stage takes. All stages take the same ones, so a model is evaluated on the
task that it was trained on."""


def stage_settings(config: Mapping[str, Any], stage: str, task: str, variant: str = "") -> dict[str, Any]:
    """A stage's settings for a task or, if `variant` names one of `variants`, for that variant of the method.

    Each of these overrides those before it: the stage's `defaults`, its entry in `per_task`, the task's `task_options`,
    the variant's changes. Raises ValueError for an unknown stage.
    """
    if stage not in config:
        raise ValueError(f"config has no stage {stage!r}")
    options = task_options(config, task)
    shared = {key: options[key] for key in TASK_OPTIONS.get(stage, ()) if options.get(key)}
    changed = {**config["variants"][variant].get(stage, {}), "variant": variant} if variant else {}
    return merge(_for_task(config[stage] or {}, task), {**shared, **changed})


def task_options(config: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The options of a task: keyword arguments of its environment (`env`) and texts of its prompt (`prompt`).

    In the texts of `env`, `{results_dir}` is replaced by the config's folder of results.
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


PART_OF_THE_POLICY = ("temperature", "max_new_tokens", "one_view")
"""Settings of `ppo` that evaluations take over unless they have their own: others measure another policy."""


def evaluation_settings(config: Mapping[str, Any], task: str, games: str = "", variant: str = "") -> dict[str, Any]:
    """Settings of a task's evaluation on a set of games, the first unless `games` names another.

    Raises ValueError if there is no such set.
    """
    # `rl4vlm play --config` may get a file with the settings of a model alone.
    trained = stage_settings(config, "ppo", task, variant) if "ppo" in config else {}
    shared = {name: trained[name] for name in PART_OF_THE_POLICY if name in trained}
    sets, settings = evaluation_sets(config, task), merge(shared, stage_settings(config, "evaluation", task))
    if games and games not in sets:
        raise ValueError(f"config, evaluation.sets.{task}: no set {games!r}; there are {', '.join(sets) or 'none'}")
    name = games or next(iter(sets), "")
    return merge(settings, {"games": name, "env": sets[name]}) if name else settings


API_ENTRY = ("tasks", "style")
"""Keys of an entry of `api_models`: the tasks that it is evaluated on, and the style of its replies."""
API_PLAY = ("episodes", "num_envs", "temperature", "max_new_tokens")
"""Keys of such an entry that override the evaluation's settings. All other keys are fields of `ApiSettings`."""


def api_settings(config: Mapping[str, Any], model: str, task: str, games: str = "") -> dict[str, Any]:
    """Settings of the evaluation of a model of `api_models`: those of the stage, overridden by the model's entry.

    Replies are cached in `api_cache` in the folder of results. If an entry sets `concurrency` and not `num_envs`, as
    many episodes are played at once as requests may be in flight. Raises ValueError for a model without an entry.
    """
    models = config.get("api_models") or {}
    if model not in models:
        known = f"there are {', '.join(models)}" if models else "there are none yet"
        raise ValueError(f"config, api_models: no model {model!r}; {known} (docs/api-models.md says how to add one)")
    entry = models[model]
    settings = merge(_evaluation_over_http(config, task, games), _given(entry))
    reached = {name: value for name, value in entry.items() if name not in (*API_ENTRY, *API_PLAY)}
    if "num_envs" not in entry and "concurrency" in entry:
        settings["num_envs"] = entry["concurrency"]
    return merge(settings, {"api": {"cache": _api_cache(config), **reached}})


def api_style(config: Mapping[str, Any], model: str) -> str:
    """The style of the replies of a model of `api_models`: with thoughts, unless its entry sets another."""
    return str(((config.get("api_models") or {}).get(model) or {}).get("style", Style.COT))


def http_settings(config: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Settings of the evaluation of a trained checkpoint over HTTP: those of the stage, overridden by `over_http`."""
    here = config["over_http"]
    settings = merge(_evaluation_over_http(config, task), _given(here))
    return merge(settings, {"api": {"cache": _api_cache(config), "concurrency": here["concurrency"]}})


def _evaluation_over_http(config: Mapping[str, Any], task: str, games: str = "") -> dict[str, Any]:
    """`evaluation_settings` without `VLM_OPTIONS`, which are for a model in the evaluation's own process."""
    found = evaluation_settings(config, task, games)
    return {name: value for name, value in found.items() if name not in VLM_OPTIONS}


def _given(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in API_PLAY if entry.get(name) is not None}


PLAYED = ("episodes", "num_envs", "seed_base", "each_game_once", "games", "env", "save_minutes")
"""The settings of an evaluation that apply to any policy."""
SCRIPTED_EVALUATION = (*PLAYED, "prompt")
"""Those that apply to a scripted policy. It reads no prompt, but the gallery shows the prompts of its episodes."""
CNN_EVALUATION = (*PLAYED, "temperature", "device")
"""Those that apply to a policy without a language model that is loaded from a checkpoint."""


def cnn_evaluation_settings(config: Mapping[str, Any], task: str, games: str = "") -> dict[str, Any]:
    """Settings of the evaluation of a CNN+RL policy: the stage's episodes, at the temperature that it was trained with.

    Settings of language models are left out, so that changing one does not make this evaluation stale.
    """
    found = evaluation_settings(config, task, games)
    played = {name: found[name] for name in CNN_EVALUATION if name in found}
    return {**played, "temperature": stage_settings(config, "cnn", task)["temperature"]}


def _api_cache(config: Mapping[str, Any]) -> str:
    return f"{config['results_dir']}/api_cache"


def thought_prob_coef(config: Mapping[str, Any], task: str, variant: str = "") -> float:
    """λ of a task's main runs, or of a variant's."""
    settings = stage_settings(config, "ppo", task, variant)
    return float(settings.get("thought_prob_coef", PPOSettings.thought_prob_coef))


def lambda_ablation(config: Mapping[str, Any]) -> dict[str, list[float]]:
    """The values of the λ ablation by task; empty if the config asks for none."""
    return dict((config.get("ablations") or {}).get("lambda") or {})

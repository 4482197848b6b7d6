"""Config files, settings, and the runs that a config asks for.

The workflow validates a config by its schema; here it is merged, taken apart by stage and task, and turned into
settings dataclasses, which check their own values.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from rl4vlm.core.settings import Settings, build_settings
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


def stage_settings(config: Mapping[str, Any], stage: str, task: str | None) -> dict[str, Any]:
    """A stage's settings for a task: what `tasks` says of it over the stage's `defaults`, then the task's options.

    A stage that knows no tasks (`base_model`) has `settings` instead. Raises ValueError for an unknown stage.
    """
    if stage not in config:
        raise ValueError(f"config has no stage {stage!r}")
    options = _for_task(config.get("task_options") or {}, task)
    shared = {key: options[key] for key in TASK_OPTIONS.get(stage, ()) if options.get(key)}
    return merge(_for_task(config[stage] or {}, task), shared)


def base_model_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the base model's pre-training, with the environment's arguments of those tasks that have any."""
    settings = stage_settings(config, "base_model", None)
    options = {task: _for_task(config.get("task_options") or {}, task).get("env") for task in settings.get("tasks", ())}
    env = {task: found for task, found in options.items() if found}
    return {**settings, "task_env": env} if env else settings


def _for_task(section: Mapping[str, Any], task: str | None) -> dict[str, Any]:
    everywhere = section.get("defaults", section.get("settings")) or {}
    here = (section.get("tasks") or {}).get(task) or {}
    return merge(everywhere, here)


def check_schema(config: Mapping[str, Any], schema: Path) -> None:
    """Raise ValueError with the place and the reason of everything in a config that its JSON schema does not allow."""
    from jsonschema import Draft202012Validator

    errors = sorted(Draft202012Validator(_read(schema)).iter_errors(config), key=lambda error: list(error.path))
    if errors:
        places = [f"config, {'.'.join(map(str, error.path)) or 'top level'}: {error.message}" for error in errors]
        raise ValueError("\n".join(places))


API_ENTRY = ("tasks", "style")
"""What an entry of `api_models` says of where it is evaluated."""
API_PLAY = ("episodes", "width", "temperature", "max_new_tokens")
"""What it may set of an evaluation; all else in it is `ApiSettings`."""


def api_settings(config: Mapping[str, Any], model: str, task: str) -> dict[str, Any]:
    """Settings of the evaluation of a model of `api_models`: the stage's, with what its entry says over them.

    Replies are kept in `api_cache` beside the results. As many episodes are played at once as there are requests under
    way, unless the entry says otherwise. Raises ValueError for a model that has no entry.
    """
    models = config.get("api_models") or {}
    if model not in models:
        known = f"there are {', '.join(models)}" if models else "there are none yet"
        raise ValueError(f"config, api_models: no model {model!r}; {known} (docs/api-models.md says how to add one)")
    entry = models[model]
    settings = merge(evaluation_settings(config, task), {name: entry[name] for name in API_PLAY if name in entry})
    reached = {name: value for name, value in entry.items() if name not in (*API_ENTRY, *API_PLAY)}
    if "width" not in entry and "concurrency" in entry:
        settings["width"] = entry["concurrency"]
    return merge(settings, {"api": {"cache": _api_cache(config), **reached}})


def api_style(config: Mapping[str, Any], model: str) -> str:
    """How a model of `api_models` is to write its replies; with thoughts unless its entry says otherwise."""
    return str(((config.get("api_models") or {}).get(model) or {}).get("style", Style.COT))


def http_settings(config: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Settings of the evaluation of a trained checkpoint over HTTP: the stage's, with what `over_http` says."""
    here = config["over_http"]
    settings = merge(evaluation_settings(config, task), {name: here[name] for name in API_PLAY if name in here})
    return merge(settings, {"api": {"cache": _api_cache(config), "concurrency": here["concurrency"]}})


CNN_EVALUATION = ("episodes", "width", "seed_base", "env", "device")
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


def check_tasks(config: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise ValueError for a task that the config names anywhere and that is not `known`; a schema cannot tell."""
    named = {
        "tasks": config["tasks"],
        "ablations.lambda": lambda_ablation(config),
        "cnn.skip": (config.get("cnn") or {}).get("skip", []),
        **{f"api_models.{model}": entry.get("tasks", []) for model, entry in (config.get("api_models") or {}).items()},
    }
    for stage, section in config.items():
        if isinstance(section, Mapping) and isinstance(section.get("tasks"), Mapping):
            named[f"{stage}.tasks"] = section["tasks"]
    for place, tasks in named.items():
        for task in tasks:
            if task not in known:
                raise ValueError(f"config, {place}: unknown task {task!r}; known are {', '.join(known)}")


def training_command(config: Mapping[str, Any], stage: str) -> str:
    """What a training's command line begins with: `rl4vlm`, or a launcher of it in several processes.

    `resources.<stage>.processes` says how many, `accelerate` how they share the work. The port is any free one, so that
    several trainings may run on one machine.
    """
    processes = config["resources"][stage].get("processes", 1)
    if processes == 1:
        return "rl4vlm"
    how = shlex.quote(config["accelerate"])
    return f"accelerate launch --config_file {how} --num_processes {processes} --main_process_port 0 --no_python rl4vlm"


def settings_arguments(settings: Mapping[str, Any]) -> list[str]:
    """`settings` as `key=value` words that a shell passes on unchanged and `parse_settings` reads back."""
    return [shlex.quote(word) for word in setting_words(settings)]


def setting_words(settings: Mapping[str, Any]) -> list[str]:
    """`settings` as `key=value` words that `parse_settings` reads back."""
    return [f"{key}={_as_text(value)}" for key, value in settings.items()]


def _as_text(value: Any) -> str:
    plain = isinstance(value, str) and isinstance(_from_text(value), str) and _from_text(value) == value
    return value if plain else json.dumps(value)


def _from_text(text: str) -> Any:
    """JSON where it is JSON, a YAML list or mapping where it looks like one, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    if text.startswith(("[", "{")):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"cannot read {text!r}: {error}") from error
    return text


def parse_settings(kind: type[Settings], arguments: Sequence[str]) -> Settings:
    """Build a settings dataclass from `key=value` words; keys not named keep their defaults.

    A value is JSON (or text that needs no quotes); `a.b=value` sets entry `b` of setting `a`.

    Raises:
        ValueError: a word without `=`, an unknown key (named with the nearest known ones) or a value that does not fit.
    """
    return build_settings(kind, parse_words(arguments))


def parse_words(arguments: Sequence[str]) -> dict[str, Any]:
    """The mapping that `key=value` words say, as `parse_settings` reads them. ValueError: a word without `=`."""
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise ValueError(f"setting {argument!r} is not of the form key=value")
        *above, last = key.split(".")
        values = merge(values, reduce(lambda inner, name: {name: inner}, reversed(above), {last: _from_text(text)}))
    return values


@dataclass(frozen=True)
class PPORun:
    """One PPO training run; `name` is its folder below `results/ppo`."""

    task: str
    style: str
    lam: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.style}-lambda{lambda_text(self.lam)}-seed{self.seed}"


@dataclass(frozen=True)
class CNNRun:
    """One training run of the CNN+RL baseline; `name` is its folder below `results/cnn`."""

    task: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}-seed{self.seed}"


@dataclass(frozen=True)
class EvaluationRun:
    """One held-out evaluation; `name` is its folder below `results/eval`, `kind` is scripted, sft, ppo, cnn, http or
    api.

    `ppo` is the training run that made the policy, for kinds ppo and http (the same checkpoint, asked over HTTP).
    `games` is the set of games, of those that `evaluation.sets` names for the task; the first of them is "".
    """

    name: str
    kind: str
    task: str
    style: str
    ppo: PPORun | None = None
    games: str = ""


def lambda_text(lam: float) -> str:
    """A thought weight as run names hold it: without an exponent or final zeros."""
    return f"{lam:.6f}".rstrip("0").rstrip(".")


def ppo_runs(config: Mapping[str, Any]) -> list[PPORun]:
    """All PPO runs: every task, style and seed at the task's own lambda, then the lambda ablation (with thoughts).

    A run that both ask for comes once; the ablation of a task that is not among `tasks` is left out.
    """
    seeds = config["seeds"]
    main = [
        PPORun(task, style, default_lambda(config, task), seed)
        for task in config["tasks"]
        for style in config["styles"]
        for seed in seeds
    ]
    ablation = [
        PPORun(task, Style.COT.value, float(lam), seed)
        for task, values in lambda_ablation(config).items()
        if task in config["tasks"]
        for lam in values
        for seed in seeds
    ]
    return list(dict.fromkeys(main + ablation))


def cnn_runs(config: Mapping[str, Any]) -> list[CNNRun]:
    """The runs of the CNN+RL baseline: each task but those of `cnn.skip`, with every seed; none without `cnn`."""
    if not config.get("cnn"):
        return []
    skipped = config["cnn"].get("skip", [])
    return [CNNRun(task, seed) for task in config["tasks"] if task not in skipped for seed in config["seeds"]]


def default_lambda(config: Mapping[str, Any], task: str) -> float:
    """The thought weight of a task's main runs."""
    return float(stage_settings(config, "ppo", task)["thought_weight"])


def lambda_ablation(config: Mapping[str, Any]) -> dict[str, list[float]]:
    """The lambda ablation's values by task; empty where the config asks for none."""
    return dict((config.get("ablations") or {}).get("lambda") or {})


def evaluation_runs(config: Mapping[str, Any]) -> list[EvaluationRun]:
    """All held-out evaluations: scripted policies, each SFT start, PPO run and CNN+RL run, what is asked over HTTP."""
    tasks, styles = config["tasks"], config["styles"]
    ppo = ppo_runs(config)
    main = [(task, style) for task in tasks for style in styles]
    starts = dict.fromkeys(main + [(run.task, run.style) for run in ppo])
    ours = [
        *(
            EvaluationRun(f"{name}-{task}", "scripted", task, Style.COT.value)
            for name in (*SCRIPTED, *SCRIPTED_OF_TASK)
            for task in tasks
            if task in SCRIPTED_OF_TASK.get(name, tasks)
        ),
        *(EvaluationRun(f"sft-{task}-{style}", "sft", task, style) for task, style in starts),
        *(EvaluationRun(f"ppo-{run.name}", "ppo", run.task, run.style, run) for run in ppo),
        *(EvaluationRun(f"cnn-{run.name}", "cnn", run.task, Style.ACTION_ONLY.value) for run in cnn_runs(config)),
    ]
    return [
        *ours,
        *(
            replace(run, name=f"{run.name}@{games}", games=games)
            for run in ours
            for games in _further(config, run.task)
        ),
        *(EvaluationRun(f"http-{run.name}", "http", run.task, run.style, run) for run in http_runs(config)),
        *api_runs(config),
    ]


def evaluation_sets(config: Mapping[str, Any], task: str) -> dict[str, dict[str, Any]]:
    """The sets of games that a task is evaluated on, by name, each with the environment's arguments for it."""
    return dict((config.get("evaluation", {}).get("sets") or {}).get(task) or {})


def _further(config: Mapping[str, Any], task: str) -> list[str]:
    """The names of all sets but the first, which is the task's own evaluation."""
    return list(evaluation_sets(config, task))[1:]


def evaluation_settings(config: Mapping[str, Any], task: str, games: str = "") -> dict[str, Any]:
    """Settings of a task's evaluation on a set of games, the first one unless named. Raises ValueError for another."""
    sets, settings = evaluation_sets(config, task), stage_settings(config, "evaluation", task)
    if games and games not in sets:
        raise ValueError(f"config, evaluation.sets.{task}: no set {games!r}; there are {', '.join(sets) or 'none'}")
    name = games or next(iter(sets), "")
    return merge(settings, {"games": name, "env": sets[name]}) if name else settings


def http_runs(config: Mapping[str, Any]) -> list[PPORun]:
    """The PPO runs whose checkpoint is evaluated over HTTP, too: of each task of `over_http` the first main run."""
    tasks = (config.get("over_http") or {}).get("tasks") or []
    first: dict[str, PPORun] = {}
    for run in main_runs(config):
        first.setdefault(run.task, run)
    return [first[task] for task in tasks if task in first]


def api_runs(config: Mapping[str, Any]) -> list[EvaluationRun]:
    """The evaluations of models of `api_models` that can be made, or were: with a key, or with a result already.

    A model without a key is left out, and its published row stands alone.
    """
    runs = [
        (entry, EvaluationRun(f"api-{model}-{task}", "api", task, api_style(config, model)))
        for model, entry in (config.get("api_models") or {}).items()
        for task in entry.get("tasks", config["tasks"])
        if task in config["tasks"]
    ]
    return [run for entry, run in runs if _has_key(entry) or _has_result(config, run)]


def _has_key(entry: Mapping[str, Any]) -> bool:
    variable = entry.get("key_env")
    return variable is None or bool(os.environ.get(variable))


def _has_result(config: Mapping[str, Any], run: EvaluationRun) -> bool:
    return Path(config["results_dir"], "eval", run.name, "summary.json").is_file()


def main_runs(config: Mapping[str, Any]) -> list[PPORun]:
    """The PPO runs at their task's own lambda: all but the ablation."""
    return [run for run in ppo_runs(config) if run.lam == default_lambda(config, run.task)]


def ablation_runs(config: Mapping[str, Any]) -> list[PPORun]:
    """The PPO runs that the lambda ablation compares, those at the task's own lambda included."""
    tasks = lambda_ablation(config)
    return [run for run in ppo_runs(config) if run.task in tasks and run.style == Style.COT]


SCRIPTED = ("random", "solver")
"""Policies that are evaluated on every task without training."""

SCRIPTED_OF_TASK = {"stand17": ("Blackjack",)}
"""Further ones, with the tasks that they can play."""

"""Checks of a whole config before anything runs: its values, its names, and the settings of every stage and task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from rl4vlm.config.check_jobs import unmet_needs
from rl4vlm.config.load import (
    api_settings,
    evaluation_sets,
    evaluation_settings,
    http_settings,
    lambda_ablation,
    stage_settings,
    task_options,
    thought_prob_coef,
)
from rl4vlm.config.methods import METHODS, PUBLISHED_ONLY
from rl4vlm.config.run_names import DATA_NAME
from rl4vlm.config.runs import lambda_text
from rl4vlm.config.schema import ELSEWHERE, SECTIONS, STAGES, BaseModelSource, Config
from rl4vlm.config.scripted import SCRIPTED
from rl4vlm.config.settings import (
    build_settings,
    check_some,
    complaint,
    unknown_settings,
    unusable_values,
)
from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.core.nearest import did_you_mean
from rl4vlm.core.types import Style


@dataclass(frozen=True)
class KnownOptions:
    """What a config may set for a task.

    Attributes:
        env: the choices of each option of its environment, by name (`rl4vlm.envs.registration.env_options`).
        env_types: the type hints of those options that have one, by name.
        prompt: names of the texts of its prompt.
    """

    env: Mapping[str, Sequence[Any]]
    env_types: Mapping[str, Any]
    prompt: tuple[str, ...]


def is_installed(package: str) -> bool:
    """Whether this Python could import a package."""
    return find_spec(package) is not None


def checked_config(
    config: Mapping[str, Any],
    known: Sequence[str],
    options_of: Callable[[str], KnownOptions],
    installed: Callable[[str], bool] = is_installed,
) -> dict[str, Any]:
    """Check a config and give its values their types.

    Args:
        config: a config with its scale (`with_scale`).
        known: the names of all tasks.
        options_of: the options of a task, by its name.
        installed: whether jobs will find a package, by its name.

    Returns:
        The config as plain values, with the defaults of keys that it leaves out.

    Raises:
        ValueError: all problems, one per line, each with its place and the nearest right name.
    """
    typed = _typed(config)
    problems = list(_wrong_tasks(typed, known))
    if not problems:
        problems += _wrong_options(typed, options_of)
        problems += _wrong_names(typed)
        problems += _ablations_without_own_lambda(typed)
        problems += _wrong_settings(typed)
        problems += unmet_needs(typed, installed)
    _raise(problems)
    return typed


def _raise(problems: Iterable[str]) -> None:
    lines = list(dict.fromkeys(problems))
    if lines:
        raise ValueError("\n".join(f"config, {line}" for line in lines))


def _typed(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        _raise(unusable_values(config))
    except RecursionError:
        raise ValueError("config, top level: a value holds itself (`&a [*a]`), or is nested too deeply") from None
    _raise(f"top level: {problem}" for problem in unknown_settings(Config, config))
    adapter = TypeAdapter(Config)
    try:
        typed = adapter.dump_python(adapter.validate_python(dict(config)), mode="json")
    except ValidationError as error:
        _raise(_placed(item) for item in error.errors())
    _raise(_type_sections(typed))
    return {**typed, "label": typed["label"] or typed["scale"]}


def _type_sections(config: dict[str, Any]) -> Iterator[str]:
    """Convert the settings of all sections to their types, in place; yields a message for each section with errors."""
    for name, kind in SECTIONS.items():
        for place, values in _parts(config, name):
            try:
                typed = check_some(kind, values, ELSEWHERE.get(name))
            except ValueError as error:
                yield f"{name}.{place}: {error}"
            else:
                values.clear()
                values.update(typed)


def _placed(error: Any) -> str:
    place = ".".join(map(str, error["loc"])) or "top level"
    if error["type"] == "value_error":
        return f"{place}: {str(error['msg']).removeprefix('Value error, ')}"
    return complaint(error).replace("setting ", "", 1)


def _unknown_task(place: str, name: str, known: Sequence[str]) -> list[str]:
    return [] if name in known else [f"{place}: unknown task {name!r}; {did_you_mean(name, known)}"]


def _wrong_tasks(config: Mapping[str, Any], known: Sequence[str]) -> Iterator[str]:
    """Unknown task names, anywhere in the config."""
    named: dict[str, Iterable[str]] = {
        "tasks": config["tasks"],
        "ablations.lambda": lambda_ablation(config),
        "cnn.skip": (config["cnn"] or {}).get("skip", ()),
        "over_http.tasks": config["over_http"]["tasks"],
        "evaluation.sets": config["evaluation"]["sets"],
        **{f"api_models.{model}.tasks": entry.get("tasks") or () for model, entry in config["api_models"].items()},
    }
    for stage in SECTIONS:
        named[f"{stage}.per_task"] = (config[stage] or {}).get("per_task") or ()
    for place, values in _parts(config, "base_model"):
        settings = values.get("settings", {})
        for key in ("pretrain_tasks", "weights", "task_env"):
            named[f"base_model.{place}.settings.{key}"] = settings.get(key, ())
    for place, tasks in named.items():
        for task in tasks:
            yield from _unknown_task(place, task, known)


def _parts(config: Mapping[str, Any], stage: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The settings in a section, with their place: `defaults`, then `per_task.TASK` for each task."""
    section = config[stage] or {}
    yield "defaults", section.get("defaults") or {}
    for task, values in (section.get("per_task") or {}).items():
        yield f"per_task.{task}", values or {}


def _wrong_options(config: Mapping[str, Any], options_of: Callable[[str], KnownOptions]) -> Iterator[str]:
    """Environment options and prompt texts that a task does not have, and values that an option does not allow."""
    per_task = config["task_options"]["per_task"] or {}
    for task in dict.fromkeys([*config["tasks"], *per_task]):
        options = task_options(config, task)
        place = f"task_options for {task}"
        env, prompt = options.get("env", {}), options.get("prompt", {})
        if env or prompt:
            yield from _wrong_env(f"{place}, env", env, options_of(task))
            for name in prompt:
                texts = options_of(task).prompt
                if name not in texts:
                    yield f"{place}, prompt: no text {name!r}; {did_you_mean(name, texts)}"
    for task, sets in config["evaluation"]["sets"].items():
        for games, env in sets.items():
            yield from _wrong_env(f"evaluation.sets.{task}.{games}", env, options_of(task))
    for task in config["tasks"]:
        demonstrator = stage_settings(config, "sft_data", task).get("demonstrator", {})
        if demonstrator:
            yield from _wrong_env(f"sft_data for {task}, demonstrator", demonstrator, options_of(task))
    for place, values in _parts(config, "base_model"):
        for task, env in values.get("settings", {}).get("task_env", {}).items():
            yield from _wrong_env(f"base_model.{place}.settings.task_env.{task}", env, options_of(task))


def _wrong_env(place: str, env: Mapping[str, Any], known: KnownOptions) -> Iterator[str]:
    for name, value in env.items():
        if name not in known.env:
            yield f"{place}: no option {name!r}; {did_you_mean(name, known.env)}"
            continue
        choices = known.env[name]
        if isinstance(choices, list) and not isinstance(value, list):
            yield f"{place}: {name} cannot be {value!r}; it takes a list of {', '.join(choices)}"
            continue
        for item in value if isinstance(choices, list) else [value]:
            # Compare the types, too: in Python, 1 == True.
            if choices and (type(item), item) not in [(type(choice), choice) for choice in choices]:
                yield f"{place}: {name} cannot be {item!r}; {did_you_mean(item, choices)}"
        if not choices and name in known.env_types:
            yield from _wrong_type(f"{place}: {name} cannot be {value!r}", known.env_types[name], value)


def _wrong_type(complaint_start: str, hint: Any, value: Any) -> list[str]:
    """A message that begins with `complaint_start` if a value does not have the type of its hint; else none."""
    try:
        # Strict, since the environment gets the value as it is: "5" is no number and 1 not true. As JSON, in which a
        # list can be a tuple and a text a path.
        TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        return [f"{complaint_start}; {message[:1].lower()}{message[1:]}"]
    except PydanticUserError:  # a type of another package, which pydantic cannot check
        pass
    return []


def _wrong_names(config: Mapping[str, Any]) -> Iterator[str]:
    """Values of λ that the name of a folder cannot hold, and entries of `sft_data.given` that name no run."""
    weights = {f"ppo for {task}, thought_prob_coef": [thought_prob_coef(config, task)] for task in config["tasks"]}
    weights |= {f"ablations.lambda.{task}": values for task, values in lambda_ablation(config).items()}
    weights |= {
        f"variants.{name}.ppo.thought_prob_coef": [changed["ppo"]["thought_prob_coef"]]
        for name, changed in config["variants"].items()
        if "thought_prob_coef" in changed["ppo"]
    }
    for place, values in weights.items():
        for value in values:
            if float(lambda_text(value)) != value:
                yield f"{place}: the folder of {value!r} would be named {lambda_text(value)}; use 6 decimals at most"
    runs = [DATA_NAME.format(task=task, style=style) for task in config["tasks"] for style in Style]
    for name in config["sft_data"]["given"]:
        if name not in runs:
            yield f"sft_data.given: no demonstrations are named {name!r}; {did_you_mean(name, runs)}"


def _ablations_without_own_lambda(config: Mapping[str, Any]) -> Iterator[str]:
    """λ ablations without a run of the method itself, with thoughts and its own λ: tables could not be made of them."""
    for task, values in lambda_ablation(config).items():
        own = thought_prob_coef(config, task)
        if values and task in config["tasks"] and Style.COT not in config["styles"] and own not in values:
            yield (
                f"ablations.lambda.{task}: no run has the method's own λ, {lambda_text(own)}; "
                f"add {lambda_text(own)}, or {Style.COT.value} to styles"
            )


def _wrong_settings(config: Mapping[str, Any]) -> Iterator[str]:
    """Settings of a stage that do not fit each other for some task."""
    for task in config["tasks"]:
        for stage, kind in STAGES.items():
            if config[stage] is not None:
                yield from _unfit(f"{stage} for {task}", kind, stage_settings(config, stage, task))
        for name in config["variants"]:
            for stage in ("sft", "ppo"):
                yield from _unfit(
                    f"variants.{name} for {task}", STAGES[stage], stage_settings(config, stage, task, name)
                )
        api = stage_settings(config, "evaluation", task).get("api", {})
        try:
            check_some(ApiSettings, api)
        except ValueError as error:
            yield f"evaluation for {task}, api: {error}"
        if task in config["over_http"]["tasks"]:
            yield from _unfit(f"over_http for {task}", STAGES["evaluation"], http_settings(config, task))
        for games in evaluation_sets(config, task):
            yield from _unfit(f"evaluation for {task}", STAGES["evaluation"], evaluation_settings(config, task, games))
        yield from _unfit(f"base_model for {task}", BaseModelSource, stage_settings(config, "base_model", task))
    own = {*METHODS, *(policy.method for policy in SCRIPTED.values())} - {*PUBLISHED_ONLY}
    named: dict[str, str] = {}
    for model, entry in config["api_models"].items():
        method = entry.get("method") or model
        if method in own:
            yield f"api_models.{model}: method {method!r} is that of a policy of this project: their rows would merge"
        if method in named:
            yield f"api_models.{model}: method {method!r} is that of {named[method]}, too: their rows would merge"
        named[method] = model
        for task in entry.get("tasks") or config["tasks"]:
            settings = api_settings(config, model, task)
            yield from _unfit(f"api_models.{model} for {task}", STAGES["evaluation"], settings)
            yield from _unfit(f"api_models.{model} for {task}", ApiSettings, settings["api"])


def _unfit(place: str, kind: type[Any], values: Mapping[str, Any]) -> list[str]:
    try:
        build_settings(kind, values)
    except ValueError as error:
        return [f"{place}: {error}"]
    return []

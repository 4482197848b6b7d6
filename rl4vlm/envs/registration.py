"""Registration of every task with Gymnasium, done when `rl4vlm.envs` is imported."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any, cast, get_type_hints

from gymnasium import make
from gymnasium.envs.registration import register, registry
from gymnasium.error import Error

from rl4vlm.core.nearest import did_you_mean
from rl4vlm.core.types import GameEnv
from rl4vlm.tasks.registry import TaskEntry, get_task_entry, task_names


def register_all() -> None:
    """Register every task that Gymnasium does not know yet. This imports none of this package's own tasks.

    A task of another package that cannot be imported or registered gives a warning, so that the others still work.
    """
    for name in task_names():
        try:
            _register(name, get_task_entry(name))
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)


def _register(name: str, entry: TaskEntry) -> None:
    if entry.gym_id in registry:
        taken = registry[entry.gym_id].kwargs.get("task")
        if taken != name:  # `make` would play the other game
            raise ValueError(f"task {name!r}: its gym_id {entry.gym_id!r} is already that of {taken or 'another game'}")
    else:
        try:
            register(entry.gym_id, entry_point=entry.env, kwargs={"task": name})
        except Error as error:  # its own class, which is no ValueError
            raise ValueError(f"task {name!r}: {error}") from error


def env_options(task_name: str) -> dict[str, Sequence[Any]]:
    """The options of a task's environment.

    Returns:
        The choices of each option by name, from the class attribute `choices` of the environment: a tuple for an option
        that is one of the choices, a list for an option that is a list of some of them, () for any other option.

    Raises:
        ValueError: there is no such task; the message lists those that exist.
    """
    env = _env_class(task_name)
    choices = getattr(env, "choices", {})
    return {name: choices.get(name, ()) for name in inspect.signature(env).parameters if name != "task"}


def env_types(task_name: str) -> dict[str, Any]:
    """The type hints of the options of a task's environment, by name; none if they cannot be evaluated.

    Raises ValueError as `env_options` does.
    """
    try:
        return get_type_hints(_env_class(task_name).__init__)
    except (NameError, AttributeError):  # a type in a hint is imported for type checkers only
        return {}


def _env_class(task_name: str) -> Any:
    return resolve_name(get_task_entry(task_name).env)


def make_env(task_name: str, **options: Any) -> GameEnv:
    """Make the environment of a task, without Gymnasium's wrappers.

    Args:
        task_name: name in the registry of tasks.
        options: keyword arguments of the environment (`rules`, `card_art`; ALFWorld's are in its docstring).

    Raises:
        ValueError: there is no such task, or its environment has no such option; the message lists those that exist.
    """
    entry = get_task_entry(task_name)
    known = env_options(task_name)
    for option in options:
        if option not in known:
            raise ValueError(f"{task_name} has no environment option {option!r}; {did_you_mean(option, sorted(known))}")
    _register(task_name, entry)  # a task that was added after `rl4vlm.envs` was imported
    return cast(GameEnv, make(entry.gym_id, disable_env_checker=True, **options).unwrapped)

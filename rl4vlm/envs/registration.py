"""Registration of every task with Gymnasium, done when `rl4vlm.envs` is imported."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, cast

from gymnasium import make
from gymnasium.envs.registration import register, registry

from rl4vlm.core.types import GameEnv
from rl4vlm.tasks.base import Task
from rl4vlm.tasks.registry import get_task_class, task_names


def register_all() -> None:
    """Register every task that Gymnasium does not know yet, including tasks of other packages."""
    for name in task_names():
        _register(name, get_task_class(name))


def _register(name: str, task: type[Task]) -> None:
    if task.gym_id not in registry:
        register(task.gym_id, entry_point=task.entry_point, kwargs={"task": name})


def env_options(task_name: str) -> dict[str, tuple[str, ...]]:
    """The options of a task's environment by name, each with its choices, or () if it takes other values.

    An environment lists its choices in the class attribute `choices`. Raises ValueError that lists the known tasks.
    """
    module, _, attribute = get_task_class(task_name).entry_point.partition(":")
    env = getattr(importlib.import_module(module), attribute)
    choices = getattr(env, "choices", {})
    return {name: choices.get(name, ()) for name in inspect.signature(env).parameters if name != "task"}


def make_env(task_name: str, **options: Any) -> GameEnv:
    """A task's environment, without gymnasium's wrappers.

    `options` are the environment's own keyword arguments (`rules`, `card_art`). Raises ValueError that lists the
    known tasks, or names an option that the environment does not have.
    """
    known = env_options(task_name)
    for option in options:
        if option not in known:
            raise ValueError(f"{task_name} has no environment option {option!r}: it knows {', '.join(sorted(known))}")
    task = get_task_class(task_name)
    _register(task_name, task)
    return cast(GameEnv, make(task.gym_id, disable_env_checker=True, **options).unwrapped)

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


def make_env(task_name: str, **env_options: Any) -> GameEnv:
    """A task's environment, without gymnasium's wrappers.

    `env_options` are the environment's own keyword arguments (`rules`, `card_art`). Raises ValueError that lists the
    known tasks, or names an option that the environment does not have.
    """
    task = get_task_class(task_name)
    module, _, attribute = task.entry_point.partition(":")
    known = set(inspect.signature(getattr(importlib.import_module(module), attribute)).parameters) - {"task"}
    for option in env_options:
        if option not in known:
            raise ValueError(f"{task_name} has no environment option {option!r}: it knows {', '.join(sorted(known))}")
    _register(task_name, task)
    return cast(GameEnv, make(task.gym_id, disable_env_checker=True, **env_options).unwrapped)

"""Registration of every task with Gymnasium, done when `rl4vlm.envs` is imported."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, cast

from gymnasium import make
from gymnasium.envs.registration import register, registry

from rl4vlm.core.types import GameEnv
from rl4vlm.tasks.registry import TaskEntry, get_task_entry, task_names


def register_all() -> None:
    """Register every task that Gymnasium does not know yet. Of this package's own tasks no module is imported."""
    for name in task_names():
        _register(name, get_task_entry(name))


def _register(name: str, entry: TaskEntry) -> None:
    if entry.gym_id not in registry:
        register(entry.gym_id, entry_point=entry.env, kwargs={"task": name})


def make_env(task_name: str, **env_options: Any) -> GameEnv:
    """Make the environment of a task, without Gymnasium's wrappers.

    Args:
        task_name: name in the registry of tasks.
        env_options: keyword arguments of the environment (`rules`, `card_art`; ALFWorld's are in its docstring).

    Raises:
        ValueError: there is no such task, or its environment has no such option; the message lists those that exist.
    """
    entry = get_task_entry(task_name)
    module, _, attribute = entry.env.partition(":")
    known = set(inspect.signature(getattr(importlib.import_module(module), attribute)).parameters) - {"task"}
    for option in env_options:
        if option not in known:
            options = ", ".join(sorted(known))
            raise ValueError(f"{task_name} has no environment option {option!r}: its options are {options}")
    _register(task_name, entry)  # a task that was added after `rl4vlm.envs` was imported
    return cast(GameEnv, make(entry.gym_id, disable_env_checker=True, **env_options).unwrapped)

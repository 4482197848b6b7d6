"""Where tasks are found: a literal dict of this package's own, and entry points of other packages."""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import entry_points
from typing import Any

from rl4vlm.tasks.base import Task

ENTRY_POINT_GROUP = "rl4vlm.tasks"

TASKS: dict[str, str] = {
    "NumberLine": "rl4vlm.tasks.number_line:NumberLine",
    "EZPoints": "rl4vlm.tasks.ezpoints:EZPoints",
    "Points24": "rl4vlm.tasks.points24:Points24",
    "Blackjack": "rl4vlm.tasks.blackjack:Blackjack",
    "ALFWorld": "rl4vlm.tasks.alfworld:ALFWorld",
}


def _others() -> dict[str, str]:
    """The "module:object" of other packages' tasks; a name of this package's own cannot be taken."""
    found = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    return {name: target for name, target in found.items() if name not in TASKS}


def task_names() -> list[str]:
    """The names of all tasks, this package's own first."""
    return [*TASKS, *_others()]


def get_task_class(name: str) -> type[Task]:
    """The class of a task. Raises ValueError that lists the known names."""
    target = TASKS.get(name) or _others().get(name)
    if target is None:
        raise ValueError(f"unknown task {name!r}: known are {', '.join(task_names())}")
    module, _, attribute = target.partition(":")
    found: type[Task] = getattr(importlib.import_module(module), attribute)
    return found


def get_task(name: str, **options: Any) -> Task:
    """A task by name, with its options (`rules="strict"` or `"upstream"` for the card games).

    Raises ValueError that lists the known tasks, or names the option that the task does not have.
    """
    task_class = get_task_class(name)
    known = list(inspect.signature(task_class).parameters)
    for option in options:
        if option not in known:
            raise ValueError(f"task {name} has no option {option!r}: it knows {', '.join(known) or 'none'}")
    return task_class(**options)

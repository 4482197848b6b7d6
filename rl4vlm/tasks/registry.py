"""Where to find each task: one row per task of this package, and entry points for tasks of other packages."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import Any

from rl4vlm.core.nearest import did_you_mean
from rl4vlm.tasks.base import Task
from rl4vlm.tasks.check import check_task

ENTRY_POINT_GROUP = "rl4vlm.tasks"


@dataclass(frozen=True)
class TaskEntry:
    """All that registration needs of a task, so that registering it does not import it.

    Attributes:
        task: the task's class, as "module:object".
        gym_id: the environment's id in Gymnasium.
        env: the environment's class, as "module:object".
    """

    task: str
    gym_id: str
    env: str = "rl4vlm.envs.card_env:CardEnv"


# The names are literals and the modules strings: the code digest follows only the rows that a stage looks up.
TASKS: dict[str, TaskEntry] = {
    "NumberLine": TaskEntry("rl4vlm.tasks.number_line:NumberLine", "gym_cards/NumberLine-v0"),
    "EZPoints": TaskEntry("rl4vlm.tasks.ezpoints:EZPoints", "gym_cards/EZPoints-v0"),
    "Points24": TaskEntry("rl4vlm.tasks.points24:Points24", "gym_cards/Points24-v0"),
    "Blackjack": TaskEntry("rl4vlm.tasks.blackjack:Blackjack", "gym_cards/Blackjack-v0"),
    "ALFWorld": TaskEntry(
        "rl4vlm.tasks.alfworld:ALFWorld", "alfworld/ALFWorld-v0", env="rl4vlm.envs.alfworld.env:ALFWorldEnv"
    ),
}


def task_names() -> list[str]:
    """The names of all tasks, this package's own first."""
    return [*TASKS, *_entry_points()]


def get_task_entry(name: str) -> TaskEntry:
    """The registry's row for a task. For a task of another package it is made from the class, which is imported.

    Raises:
        ValueError: there is no such task; the message lists the known ones. Or the other package cannot be
            imported, or its class has no `gym_id`, or another `name`, or a wrong definition (`check_task`).
    """
    if name in TASKS:
        return TASKS[name]
    others = _entry_points()
    if name not in others:
        raise ValueError(f"unknown task {name!r}; {did_you_mean(name, task_names())}")
    target = others[name].value
    try:
        task = resolve_name(target)
        if task.name != name:
            raise ValueError(f"its `name` is {task.name!r}; the entry point must have the same")
        entry = TaskEntry(target, task.gym_id, getattr(task, "entry_point", TaskEntry.env))
    except Exception as error:  # whatever another package's module does
        raise ValueError(f"task {name!r} cannot be loaded from {target}: {type(error).__name__}: {error}") from error
    check_task(name, task)
    return entry


def get_task_class(name: str) -> type[Task]:
    """The class of a task. Raises ValueError that lists the known names."""
    task: type[Task] = resolve_name(get_task_entry(name).task)
    return task


def get_task(name: str, **options: Any) -> Task:
    """A task by name, with its options (`rules="strict"` or `"upstream"` for the card games).

    Raises:
        ValueError: there is no such task, or it has no such option; the message lists those that exist.
    """
    task_class = get_task_class(name)
    known = list(inspect.signature(task_class).parameters)
    for option in options:
        if option not in known:
            raise ValueError(f"task {name} has no option {option!r}; {did_you_mean(option, known)}")
    return task_class(**options)


def _entry_points() -> dict[str, EntryPoint]:
    """The tasks of other packages. They cannot take the name of one of this package's own."""
    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    return {name: point for name, point in found.items() if name not in TASKS}

"""The card and number tasks: their rules are part of this package, so they need no download."""

from rl4vlm.tasks.base import CardTask
from rl4vlm.tasks.registry import TASKS, get_task_class

GAMES = [name for name in TASKS if issubclass(get_task_class(name), CardTask)]

"""The registered tasks that are pure rules, and need nothing but their name to be played."""

from rl4vlm.tasks.base import CardTask
from rl4vlm.tasks.registry import TASKS, get_task_class

GAMES = [name for name in TASKS if issubclass(get_task_class(name), CardTask)]

"""The options that a config may set for a task."""

from __future__ import annotations

from rl4vlm.config.check import KnownOptions
from rl4vlm.envs.registration import env_options, env_types
from rl4vlm.interaction.prompt import prompt_texts
from rl4vlm.tasks.registry import get_task_class


def options_of(task: str) -> KnownOptions:
    """The options of a task's environment and the texts of its prompt. Raises ValueError for an unknown task."""
    return KnownOptions(env_options(task), env_types(task), prompt_texts(get_task_class(task).prompt))

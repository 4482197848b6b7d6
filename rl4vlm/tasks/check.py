"""The check of a task of another package: a mistake in its definition is named before anything is played."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from rl4vlm.core.games import NOT_IN_TASK_NAMES
from rl4vlm.core.types import ExpertAction, PromptParts
from rl4vlm.tasks.base import CardTask, Task


def check_task(name: str, task: Any) -> None:
    """Check what a task's class says, and what the methods of a card game return for one start state.

    Args:
        name: the task's name, for messages.
        task: its class, or whatever was given as such.

    Raises:
        ValueError: the task cannot be used; the message names the member and says what is wrong with it.
    """
    try:
        if not (isinstance(task, type) and issubclass(task, Task)):
            raise ValueError("it is no subclass of rl4vlm.tasks.base.Task")
        _check_class(task)
    except ValueError as error:
        raise ValueError(f"task {name!r} cannot be used: {error}") from error
    except Exception as error:  # whatever another package's class does when it is looked at
        raise ValueError(f"task {name!r} cannot be used: {type(error).__name__}: {error}") from error


@cache  # a task is looked up many times, and its solver may be slow
def _check_class(task: type[Task]) -> None:
    if found := re.search(f"[{NOT_IN_TASK_NAMES}]", task.name):
        raise ValueError(f"`name` must not contain {found[0]!r}")
    if missing := sorted(getattr(task, "__abstractmethods__", ())):
        raise ValueError(f"`{missing[0]}` is not defined")
    _check_prompt(getattr(task, "prompt", None))
    if not isinstance(task.perception_patterns, Mapping):
        raise ValueError(f"`perception_patterns` must be a dict, not {task.perception_patterns!r}")
    for field, pattern in task.perception_patterns.items():
        if not (isinstance(pattern, re.Pattern) and pattern.groups):
            raise ValueError(f"`perception_patterns` needs a compiled pattern with a group for {field!r}")
    _check_texts("groups", task.groups)
    if task.groups and task.group is Task.group:
        raise ValueError("`groups` is set, but `group` is not defined")
    if issubclass(task, CardTask):
        _check_actions(getattr(task, "actions", None))
        _check_methods(task)


def _check_prompt(prompt: Any) -> None:
    if not isinstance(prompt, PromptParts):
        raise ValueError(f"`prompt` must be a PromptParts, not {prompt!r}")
    _check_texts("prompt.keys", prompt.keys)
    _check_named_texts("prompt.hints", prompt.hints)
    if unknown := [key for key in prompt.hints if key not in prompt.keys]:
        raise ValueError(f"`prompt.hints` has {unknown[0]!r}, which is not in `prompt.keys`: {prompt.keys!r}")


def _check_actions(actions: Any) -> None:
    _check_texts("actions", actions)
    if not actions:
        raise ValueError("`actions` is empty")
    known: dict[str, str] = {}
    for action in actions:
        # About what the parser reads; its own function is in a layer above (`rl4vlm.interaction.match`).
        text = " ".join(unicodedata.normalize("NFKC", action).lower().split()).strip("\"'`.,;:!? ")
        if not text:
            raise ValueError(f"`actions` has {action!r}, which no reply can name")
        if text in known:
            raise ValueError(f"`actions` has {known[text]!r} and {action!r}, which are the same in a reply")
        known[text] = action


def _check_methods(task: type[CardTask[Any]]) -> None:
    game = _result("__init__", task, rules="strict")
    state = _result("start", game.start, np.random.default_rng(0), None)
    expert = _result("solve", game.solve, state)
    if not isinstance(expert, ExpertAction) or not isinstance(expert.entries, Mapping):
        raise ValueError(f"`solve` must return an ExpertAction with a dict of entries, not {expert!r}")
    if expert.action not in task.actions:
        raise ValueError(f"`solve` names the action {expert.action!r}, which is not in `actions`: {task.actions!r}")
    if tuple(expert.entries) != task.prompt.keys:
        raise ValueError(f"the entries of `solve` {tuple(expert.entries)!r} are not `prompt.keys` {task.prompt.keys!r}")
    _check_named_texts("fields", _result("fields", game.fields, state))
    shown = _result("perception", game.perception, state)
    _check_named_texts("perception", shown)
    if absent := [field for field in task.perception_patterns if field not in shown]:
        raise ValueError(f"`perception_patterns` has {absent[0]!r}, which `perception` does not: {tuple(shown)!r}")


def _check_texts(member: str, texts: Any) -> None:
    if not isinstance(texts, tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"`{member}` must be a tuple of texts, not {texts!r}")


def _check_named_texts(member: str, texts: Any) -> None:
    if not isinstance(texts, Mapping) or not all(isinstance(text, str) for text in (*texts, *texts.values())):
        raise ValueError(f"`{member}` must be texts by name, not {texts!r}")


def _result(member: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a member returns. Raises ValueError that names the member if it fails."""
    try:
        return call(*arguments, **options)
    except Exception as error:  # whatever another package's code does
        raise ValueError(f"`{member}` fails: {type(error).__name__}: {error}") from error

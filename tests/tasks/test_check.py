"""Mistakes in the definition of a task of another package are named when it is loaded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl4vlm.core.types import ExpertAction
from rl4vlm.tasks.base import CardTask, Task
from rl4vlm.tasks.check import check_task
from rl4vlm.tasks.registry import TASKS, get_task_class
from tests.external_task.higher_card.game import HigherCard
from tests.fakes import ClimbTask

CARDS = {"cards": ["2", "3"], "thoughts": "The right card is higher."}


def altered(**members: Any) -> type[HigherCard]:
    """HigherCard with other members."""
    return type("HigherCard", (HigherCard,), members)


def returning(value: Any) -> Any:
    """A method that returns this."""
    return lambda self, *arguments, **options: value


def test_this_projects_tasks_and_the_example_are_right() -> None:
    for name in TASKS:
        check_task(name, get_task_class(name))
    check_task("HigherCard", HigherCard)
    check_task("Climb", ClimbTask)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"name": "Higher-Card"}, "`name` must not contain '-'"),
        ({"name": "Higher/Card"}, "`name` must not contain '/'"),
        ({"name": "Higher@Card"}, "`name` must not contain '@'"),
        ({"name": "Higher=Card"}, "`name` must not contain '='"),
        ({"name": "Higher{x}"}, "`name` must not contain '{'"),
        ({"scene": CardTask.scene}, "`scene` is not defined"),
        ({"actions": "left"}, "`actions` must be a tuple of texts, not 'left'"),
        ({"actions": ("left", 2)}, "`actions` must be a tuple of texts, not ('left', 2)"),
        ({"actions": ()}, "`actions` is empty"),
        ({"actions": ("left", "right", "?")}, "`actions` has '?', which no reply can name"),
        ({"actions": ("left", "Left")}, "`actions` has 'left' and 'Left', which are the same in a reply"),
        ({"actions": ("go left", "go  left.")}, "`actions` has 'go left' and 'go  left.', which are the same"),
        ({"prompt": "Compare them."}, "`prompt` must be a PromptParts, not 'Compare them.'"),
        ({"prompt": replace(HigherCard.prompt, keys="thoughts")}, "`prompt.keys` must be a tuple of texts"),  # type: ignore[arg-type]
        ({"prompt": replace(HigherCard.prompt, hints={"card": "ranks"})}, "`prompt.hints` has 'card', which is not in"),
        ({"perception_patterns": "cards"}, "`perception_patterns` must be a dict, not 'cards'"),
        ({"perception_patterns": {"cards": "(.*)"}}, "`perception_patterns` needs a compiled pattern with a group"),
        ({"perception_patterns": {"cards": re.compile("x")}}, "`perception_patterns` needs a compiled pattern with"),
        ({"groups": "easy"}, "`groups` must be a tuple of texts, not 'easy'"),
        ({"groups": ("easy", "hard")}, "`groups` is set, but `group` is not defined"),
        ({"__init__": lambda self: None}, "`__init__` fails: TypeError: "),
        ({"start": returning(None)}, "`solve` fails: AttributeError: "),
        ({"solve": returning("left")}, "`solve` must return an ExpertAction with a dict of entries, not 'left'"),
        ({"solve": returning(ExpertAction(CARDS, "up"))}, "`solve` names the action 'up', which is not in `actions`"),
        ({"solve": returning(ExpertAction({"thoughts": ""}, "left"))}, "the entries of `solve` ('thoughts',) are not"),
        ({"perception": returning({"card": "2"})}, "`perception_patterns` has 'cards', which `perception` does not"),
        ({"perception": returning({"cards": [2, 3]})}, "`perception` must be texts by name, not {'cards': [2, 3]}"),
        ({"solve": returning(ExpertAction(None, "left"))}, "`solve` must return an ExpertAction with a dict"),  # type: ignore[arg-type]
        ({"name": 3}, "TypeError: expected string"),
        ({"fields": returning(None)}, "`fields` must be texts by name, not None"),
    ],
)
def test_the_wrong_member_is_named(members: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^task 'HigherCard' cannot be used: {re.escape(said)}") as raised:
        check_task("HigherCard", altered(**members))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", [int, HigherCard(), Path])
def test_what_is_no_task_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="task 'HigherCard' cannot be used: it is no subclass of"):
        check_task("HigherCard", given)


def test_a_start_that_needs_its_options_is_right() -> None:
    """As docs/add-a-task.md writes it; environments give both arguments."""

    class Plain(HigherCard):
        def start(self, rng: np.random.Generator, options: Any) -> Any:  # type: ignore[override]
            return super().start(rng, options)

    check_task("HigherCard", Plain)


def test_groups_with_their_method_are_right() -> None:
    class Grouped(ClimbTask):
        groups = ("low", "high")

        def group(self, info: Any) -> str:
            return "low"

    check_task("Grouped", Grouped)


def test_a_right_task_is_checked_once() -> None:
    starts: list[int] = []

    class Counted(HigherCard):
        def start(self, *arguments: Any, **options: Any) -> Any:
            starts.append(1)
            return super().start(*arguments, **options)

    for _ in range(3):
        check_task("HigherCard", Counted)
    assert len(starts) == 1


def test_the_example_refuses_unknown_options() -> None:
    with pytest.raises(ValueError, match="unknown option 'speed'"):
        HigherCard().start(np.random.default_rng(0), {"speed": 3})


def test_a_task_without_a_prompt_is_refused() -> None:
    class Bare(Task):
        name = "Bare"

    with pytest.raises(ValueError, match="'Bare' cannot be used: `prompt` must be a PromptParts, not None"):
        check_task("Bare", Bare)

import re
from importlib.metadata import EntryPoint

import pytest

from rl4vlm.core.types import PromptParts
from rl4vlm.tasks import registry
from rl4vlm.tasks.base import Task
from rl4vlm.tasks.number_line import NumberLine


@pytest.mark.parametrize("name", registry.TASKS)
def test_every_task_is_what_its_name_says(name):
    task = registry.get_task(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.gym_id.startswith("gym_cards/") or name == "ALFWorld"
    assert isinstance(task.prompt, PromptParts)
    assert task.prompt.keys[-1] == "thoughts"
    assert set(task.prompt.hints) == set(task.prompt.keys)
    assert all(isinstance(pattern, re.Pattern) for pattern in task.perception_patterns.values())


def test_the_four_card_games_are_known():
    assert {"NumberLine", "EZPoints", "Points24", "Blackjack"} <= set(registry.task_names())


def test_unknown_names_and_options_are_named():
    with pytest.raises(ValueError, match=r"'Chess'.*NumberLine.*Blackjack"):
        registry.get_task("Chess")
    with pytest.raises(ValueError, match=r"'rule'.*rules"):
        registry.get_task("EZPoints", rule="strict")
    with pytest.raises(ValueError, match="'loose'"):
        registry.get_task("EZPoints", rules="loose")


def test_other_packages_add_tasks_but_do_not_replace_ours(monkeypatch):
    group = registry.ENTRY_POINT_GROUP
    others = [
        EntryPoint("Walk", "rl4vlm.tasks.number_line:NumberLine", group),
        EntryPoint("Points24", "rl4vlm.tasks.number_line:NumberLine", group),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: others)
    assert registry.get_task_class("Walk") is NumberLine
    assert registry.get_task("Points24").name == "Points24"
    assert registry.task_names() == [*registry.TASKS, "Walk"]

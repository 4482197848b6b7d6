"""The registry of tasks: its own rows, and tasks that other packages add."""

import re
from importlib.metadata import EntryPoint

import pytest

from rl4vlm.core.types import PromptParts
from rl4vlm.envs.registration import make_env, register_all
from rl4vlm.tasks import registry
from rl4vlm.tasks.base import Task
from rl4vlm.tasks.number_line import NumberLine


@pytest.mark.parametrize("name", registry.TASKS)
def test_every_task_is_what_its_name_says(name: str) -> None:
    task = registry.get_task(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert registry.get_task_entry(name).gym_id == f"{'alfworld' if name == 'ALFWorld' else 'gym_cards'}/{name}-v0"
    assert isinstance(task.prompt, PromptParts)
    assert task.prompt.keys[-1] == "thoughts"
    assert set(task.prompt.hints) == set(task.prompt.keys)
    assert all(isinstance(pattern, re.Pattern) for pattern in task.perception_patterns.values())


def test_the_four_card_games_are_known() -> None:
    assert {"NumberLine", "EZPoints", "Points24", "Blackjack"} <= set(registry.task_names())


def test_unknown_names_and_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"'Chess'.*NumberLine.*Blackjack"):
        registry.get_task("Chess")
    with pytest.raises(ValueError, match=r"'rule'.*rules"):
        registry.get_task("EZPoints", rule="strict")
    with pytest.raises(ValueError, match="'loose'"):
        registry.get_task("EZPoints", rules="loose")


class Walk(NumberLine):
    name = "Walk"
    gym_id = "walks/Walk-v0"


class Idle(Task):
    name = "Fall"


class Stroll(Task):
    name = "Stroll"
    gym_id = "walks/Stroll-v0"
    entry_point = "walks.env:StrollEnv"
    prompt = NumberLine.prompt


class Nameless(NumberLine):
    name = "Nameless"
    gym_id = "no id, for it has blanks"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no_such_package.tasks:Fall", "ModuleNotFoundError: No module named 'no_such_package'"),
        (f"{__name__}:Idle", "AttributeError: .*'gym_id'"),
        (f"{__name__}:Walk", "ValueError: its `name` is 'Walk'"),
    ],
)
def test_a_broken_package_breaks_no_other_task(target: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("Fall", target, registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    with pytest.warns(UserWarning, match=f"task 'Fall' cannot be loaded from {target}: {said}"):
        register_all()
    assert make_env("NumberLine").reset(seed=1)
    with pytest.raises(ValueError, match="task 'Fall' cannot be loaded"):
        registry.get_task("Fall")


def test_a_task_of_another_package_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = type("Walk", (Walk,), {"actions": ("+",)})
    monkeypatch.setattr(registry, "resolve_name", lambda target: wrong)
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("Walk", "walks:Walk", group)])
    with pytest.warns(UserWarning, match="task 'Walk' cannot be used: `solve` names the action '-'"):
        register_all()
    with pytest.raises(ValueError, match=r"^task 'Walk' cannot be used: `solve` names the action '-'"):
        registry.get_task("Walk")


def test_nor_does_an_id_that_gymnasium_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("Nameless", f"{__name__}:Nameless", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    with pytest.warns(UserWarning, match="task 'Nameless': Malformed environment ID"):
        register_all()
    with pytest.raises(ValueError, match="task 'Nameless': Malformed environment ID"):
        make_env("Nameless")


def test_other_packages_add_tasks_but_do_not_replace_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    group = registry.ENTRY_POINT_GROUP
    others = [
        EntryPoint("Walk", f"{__name__}:Walk", group),
        EntryPoint("Stroll", f"{__name__}:Stroll", group),
        EntryPoint("Points24", f"{__name__}:Walk", group),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: others)
    assert registry.get_task_class("Walk") is Walk
    assert registry.get_task_entry("Walk") == registry.TaskEntry(f"{__name__}:Walk", "walks/Walk-v0")
    assert registry.get_task_entry("Stroll").env == "walks.env:StrollEnv"
    assert registry.get_task("Points24").name == "Points24"
    assert registry.task_names() == [*registry.TASKS, "Walk", "Stroll"]

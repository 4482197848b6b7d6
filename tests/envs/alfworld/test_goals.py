"""The conditions of each type of goal: none, some and all of them, worked out by hand."""

from __future__ import annotations

import pytest

from rl4vlm.envs.alfworld.goals import class_of, fraction_met, goal_conditions
from rl4vlm.envs.alfworld.types import Fact, Goal, TaskType

APPLE_IN_FRIDGE = ("inreceptacle", "apple 1", "fridge 1")
OTHER_IN_FRIDGE = ("inreceptacle", "apple 2", "fridge 1")
OTHER_IN_SECOND = ("inreceptacle", "apple 2", "fridge 2")
LAMP = [("inreceptacle", "desklamp 1", "desk 2"), ("receptacleatlocation", "desk 2", "loc 5")]
LIT, HERE, HELD = ("istoggled", "desklamp 1"), ("atlocation", "agent1", "loc 5"), ("holds", "agent1", "pen 3")

PICK, PICK2 = Goal(TaskType.PICK, "apple", "fridge"), Goal(TaskType.PICK2, "apple", "fridge")
LOOK = Goal(TaskType.LOOK, "pen", lamp="desklamp")


@pytest.mark.parametrize(
    ("goal", "facts", "share"),
    [
        (PICK, [], 0),
        (PICK, [("inreceptacle", "pineapple 1", "fridge 1")], 0),
        (PICK, [("inreceptacle", "apple 1", "fridgeshelf 1")], 0),
        (PICK, [("holds", "agent1", "apple 1")], 0),
        (PICK, [APPLE_IN_FRIDGE], 1),
        (PICK2, [], 0),
        (PICK2, [APPLE_IN_FRIDGE], 1 / 2),
        (PICK2, [APPLE_IN_FRIDGE, OTHER_IN_SECOND], 1 / 2),
        (PICK2, [APPLE_IN_FRIDGE, OTHER_IN_FRIDGE], 1),
        (LOOK, [*LAMP, HERE], 0),
        (LOOK, [*LAMP, HERE, HELD], 1 / 2),
        (LOOK, [*LAMP, HERE, LIT], 1 / 2),
        (LOOK, [*LAMP, HELD, LIT, ("atlocation", "agent1", "loc 4")], 1 / 2),
        (LOOK, [*LAMP, HERE, HELD, LIT], 1),
        (LOOK, [*LAMP, HERE, HELD, ("istoggled", "floorlamp 1")], 1 / 2),
    ],
)
def test_share_of_pick_pick2_and_look(goal: Goal, facts: list[Fact], share: float) -> None:
    assert fraction_met(goal, facts) == share


@pytest.mark.parametrize(
    ("task_type", "predicate"), [(TaskType.CLEAN, "isclean"), (TaskType.HEAT, "ishot"), (TaskType.COOL, "iscool")]
)
def test_share_of_a_treated_object_in_place(task_type: TaskType, predicate: str) -> None:
    goal = Goal(task_type, "apple", "fridge")
    shares = [
        fraction_met(goal, facts)
        for facts in (
            [],
            [APPLE_IN_FRIDGE],
            [(predicate, "apple 1")],
            [APPLE_IN_FRIDGE, (predicate, "apple 2")],
            [APPLE_IN_FRIDGE, (predicate, "apple 1")],
        )
    ]
    assert shares == [0, 1 / 3, 1 / 3, 2 / 3, 1]
    others = {"isclean", "ishot", "iscool"} - {predicate}
    assert fraction_met(goal, [APPLE_IN_FRIDGE, *((other, "apple 1") for other in others)]) == 1 / 3


@pytest.mark.parametrize(("task_type", "count"), [("Pick", 1), ("Pick2", 2), ("Look", 2), ("Heat", 3)])
def test_as_many_conditions_as_in_the_thor_backend(task_type: str, count: int) -> None:
    assert len(goal_conditions(Goal(TaskType(task_type), "apple", "fridge", "desklamp"), [])) == count


def test_class_of() -> None:
    assert class_of("sidetable 12") == "sidetable"

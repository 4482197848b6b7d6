"""How far a game's goal is reached, from the facts of the true state.

Pick has 1 condition; Pick2 has 2, one for each object in the same receptacle; Look has 2 (the object is held; the lamp
is on where the agent stands); Clean, Heat and Cool have 3 (an object of the class is in place; one is treated; both
hold of the same object). These are ALFWorld's own, as its THOR backend counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rl4vlm.envs.alfworld.types import Fact, Goal, TaskType

_TREATED = {TaskType.CLEAN: "isclean", TaskType.HEAT: "ishot", TaskType.COOL: "iscool"}


def class_of(name: str) -> str:
    """The class of a named thing: `sidetable` of `sidetable 2`."""
    return name.rpartition(" ")[0]


def goal_conditions(goal: Goal, facts: Iterable[Fact]) -> tuple[bool, ...]:
    """Which of the goal's conditions hold. All of them do exactly when the engine says that the game is won."""
    match goal.task_type:
        case TaskType.PICK:
            return (bool(_in_place(goal, facts)),)
        case TaskType.PICK2:
            most = max(_in_place(goal, facts).values(), default=0)
            return most >= 1, most >= 2
        case TaskType.LOOK:
            return _look(goal, list(facts))
        case _:
            return _treated_in_place(goal, list(facts))


def share_met(goal: Goal, facts: Iterable[Fact]) -> float:
    """The share of the goal's conditions that hold, in [0, 1]."""
    conditions = goal_conditions(goal, facts)
    return sum(conditions) / len(conditions)


def _placed(goal: Goal, facts: Iterable[Fact]) -> list[tuple[str, str]]:
    """The (object, receptacle) pairs of the classes that the goal names, where one is in the other."""
    return [
        (fact[1], fact[2])
        for fact in facts
        if fact[0] == "inreceptacle" and class_of(fact[1]) == goal.object_class and class_of(fact[2]) == goal.receptacle
    ]


def _in_place(goal: Goal, facts: Iterable[Fact]) -> Counter[str]:
    """How many of the goal's objects each receptacle of the goal's class holds."""
    return Counter(receptacle for _, receptacle in _placed(goal, facts))


def _treated_in_place(goal: Goal, facts: list[Fact]) -> tuple[bool, ...]:
    placed = {thing for thing, _ in _placed(goal, facts)}
    predicate = _TREATED[goal.task_type]
    treated = {fact[1] for fact in facts if fact[0] == predicate and class_of(fact[1]) == goal.object_class}
    return bool(placed), bool(treated), bool(placed & treated)


def _look(goal: Goal, facts: list[Fact]) -> tuple[bool, ...]:
    held = any(fact[0] == "holds" and class_of(fact[2]) == goal.object_class for fact in facts)
    lit = {fact[1] for fact in facts if fact[0] == "istoggled" and class_of(fact[1]) == goal.lamp}
    here = {fact[2] for fact in facts if fact[0] == "atlocation"}
    near = {fact[1] for fact in facts if fact[0] == "receptacleatlocation" and fact[2] in here}
    lamp_near = any(fact[0] == "inreceptacle" and fact[1] in lit and fact[2] in near for fact in facts)
    return held, lamp_near

"""Which conditions of a game's goal hold, computed from the true state.

These are ALFWorld's own conditions, as its THOR backend counts them. Pick has 1: an object is in place. Pick2 has 2:
one for each of two objects in the same receptacle. Look has 2: the object is held, and a lamp is on at the agent's
place. Clean, Heat and Cool have 3: an object is in place, an object is treated, and one object is both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rl4vlm.envs.alfworld.types import Fact, Goal, TaskType

TREATED = {TaskType.CLEAN: "isclean", TaskType.HEAT: "ishot", TaskType.COOL: "iscool"}


def class_of(name: str) -> str:
    """The class of a named object: `sidetable` for `sidetable 2`."""
    return name.rpartition(" ")[0]


def goal_conditions(goal: Goal, facts: Iterable[Fact]) -> tuple[bool, ...]:
    """Whether each condition of the goal holds. The engine says that a game is won exactly if all of them hold."""
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


def fraction_met(goal: Goal, facts: Iterable[Fact]) -> float:
    """The fraction of the goal's conditions that hold, in [0, 1]."""
    conditions = goal_conditions(goal, facts)
    return sum(conditions) / len(conditions)


def _placed(goal: Goal, facts: Iterable[Fact]) -> list[tuple[str, str]]:
    """The (object, receptacle) pairs of the goal's classes in which the receptacle holds the object."""
    return [
        (fact[1], fact[2])
        for fact in facts
        if fact[0] == "inreceptacle" and class_of(fact[1]) == goal.object_class and class_of(fact[2]) == goal.receptacle
    ]


def _in_place(goal: Goal, facts: Iterable[Fact]) -> Counter[str]:
    """The number of the goal's objects in each receptacle of the goal's class."""
    return Counter(receptacle for _, receptacle in _placed(goal, facts))


def _treated_in_place(goal: Goal, facts: list[Fact]) -> tuple[bool, ...]:
    placed = {thing for thing, _ in _placed(goal, facts)}
    predicate = TREATED[goal.task_type]
    treated = {fact[1] for fact in facts if fact[0] == predicate and class_of(fact[1]) == goal.object_class}
    return bool(placed), bool(treated), bool(placed & treated)


def _look(goal: Goal, facts: list[Fact]) -> tuple[bool, ...]:
    held = any(fact[0] == "holds" and class_of(fact[2]) == goal.object_class for fact in facts)
    lit = {fact[1] for fact in facts if fact[0] == "istoggled" and class_of(fact[1]) == goal.lamp}
    # The facts give no place for a lamp itself: it is where its receptacle is.
    here = {fact[2] for fact in facts if fact[0] == "atlocation"}
    near = {fact[1] for fact in facts if fact[0] == "receptacleatlocation" and fact[2] in here}
    lamp_near = any(fact[0] == "inreceptacle" and fact[1] in lit and fact[2] in near for fact in facts)
    return held, lamp_near

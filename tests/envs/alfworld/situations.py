"""Hand-made situations in a small kitchen whose facts a test chooses."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rl4vlm.envs.alfworld.observation import Room, Spot
from rl4vlm.envs.alfworld.types import Fact, Goal, Situation, Source, TaskType

PLACES = {
    "fridge 1": "loc 1",
    "countertop 1": "loc 2",
    "countertop 2": "loc 3",
    "microwave 1": "loc 4",
    "sinkbasin 1": "loc 5",
    "cabinet 1": "loc 6",
    "cabinet 2": "loc 6",
    "desk 1": "loc 7",
}
OPENABLE = ("fridge 1", "microwave 1", "cabinet 1", "cabinet 2")
ROOM = Room(
    receptacles=tuple((name, float(number % 4), float(number // 4)) for number, name in enumerate(PLACES)),
    spots=tuple((f"loc {n}", Spot(n % 4 + 0.5, n // 4 + 0.5, n % 4)) for n in range(1, 9)),
)
HEAT_MUG = Goal(TaskType.HEAT, "mug", "countertop")


def situation(
    inside: Mapping[str, Collection[str]],
    *,
    at: str | None = None,
    held: str | None = None,
    opened: Collection[str] = (),
    states: Collection[tuple[str, str]] = (),
    goal: Goal = HEAT_MUG,
    admissible: tuple[str, ...] = (),
    **others: object,
) -> Situation:
    """The kitchen with `inside` (objects by receptacle). `at` is the agent's receptacle, None for the middle."""
    location = PLACES[at] if at else "loc 8"
    facts: set[Fact] = {("receptacleatlocation", name, place) for name, place in PLACES.items()}
    facts |= {("openable", name) for name in OPENABLE} | {("opened", name) for name in opened}
    facts |= {("inreceptacle", thing, place) for place, things in inside.items() for thing in things}
    facts |= {("atlocation", "agent1", location), *states}
    if held:
        facts |= {("holds", "agent1", held)}
    fields = {
        "feedback": "",
        "scene": "",
        "goal_text": "put a hot mug in countertop.",
        "won": False,
        "done": False,
        "steps": 0,
        "conditions_met": 0.0,
        "game_file": "game.tw-pddl",
        "source": Source.GENERATED,
        **others,
    }
    return Situation(
        admissible=admissible,
        facts=tuple(sorted(facts)),
        location=location,
        at=tuple(sorted(name for name, place in PLACES.items() if place == location)),
        held=held,
        goal=goal,
        **fields,  # type: ignore[arg-type]
    )

"""What an agent in ALFWorld can see, and the map of its room: all that a picture is drawn from.

`seen` is the one place where the true state becomes an observation. It keeps what is in the receptacles at the agent's
place, unless they are closed, and what the agent holds; it never looks at the goal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from rl4vlm.envs.alfworld.types import Fact, Situation

_MARKS = {"ishot": "hot", "iscool": "cold", "isclean": "clean", "istoggled": "on", "issliced": "sliced"}
MARKS = tuple(_MARKS.values())
"""The visible states of a thing, in the order in which they are shown."""

_ID = re.compile(r"\b[a-z]\w*?_bar_\w+")
_WORDS = {"_bar_": "|", "_minus_": "-", "_plus_": "+", "_dot_": ".", "_comma_": ","}


@dataclass(frozen=True)
class Thing:
    """A thing in view: its name (`apple 1`) and the states that can be seen on it, some of `MARKS`."""

    name: str
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Receptacle:
    """A receptacle at the agent's place. `is_open` is None where it cannot be opened; `things` is what is in view."""

    name: str
    is_open: bool | None
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Spot:
    """Where an agent may stand: x and z on the floor in metres, and the quarter turns from north that it faces."""

    x: float
    z: float
    turn: int


@dataclass(frozen=True)
class Room:
    """The map of a game's room: where each receptacle is (x, z in metres), by name, and each place of the agent.

    All of it is known to a player from the start: the first text lists the receptacles, and they do not move.
    """

    receptacles: tuple[tuple[str, float, float], ...]
    spots: tuple[tuple[str, Spot], ...]


@dataclass(frozen=True)
class Seen:
    """All that a picture shows: the receptacles at the agent's place, what it holds, the room and where it stands."""

    receptacles: tuple[Receptacle, ...]
    held: Thing | None
    room: Room
    location: str


def seen(situation: Situation, room: Room) -> Seen:
    """What the agent can see in a situation: nothing of closed or distant receptacles, and nothing of the goal."""
    facts = situation.facts
    openable = {fact[1] for fact in facts if fact[0] == "openable"}
    opened = {fact[1] for fact in facts if fact[0] == "opened"}
    marks = _marks(facts)
    near = []
    for name in sorted(situation.at, key=natural_order):
        is_open = name in opened if name in openable else None
        inside = sorted((f[1] for f in facts if f[0] == "inreceptacle" and f[2] == name), key=natural_order)
        things = tuple(Thing(thing, marks.get(thing, ())) for thing in inside) if is_open is not False else ()
        near.append(Receptacle(name, is_open, things))
    held = None if situation.held is None else Thing(situation.held, marks.get(situation.held, ()))
    return Seen(tuple(near), held, room, situation.location)


def marks_of(situation: Situation, name: str) -> tuple[str, ...]:
    """The states that can be seen on a thing, some of `MARKS`."""
    return _marks(situation.facts).get(name, ())


def natural_order(name: str) -> tuple[str, int]:
    """A sort key that puts `shelf 2` before `shelf 10`."""
    class_name, _, number = name.rpartition(" ")
    return (class_name, int(number)) if class_name and number.isdigit() else (name, 0)


def _marks(facts: tuple[Fact, ...]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for predicate, mark in _MARKS.items():
        for fact in facts:
            if fact[0] == predicate:
                found.setdefault(fact[1], []).append(mark)
    return {name: tuple(marks) for name, marks in found.items()}


@lru_cache(maxsize=512)
def read_room(problem: str) -> Room:
    """The map in a game's PDDL problem: its ids hold the coordinates, and ALFWorld numbers names in their order.

    Args:
        problem: the text under `pddl_problem`.
    """
    text = problem.lower()
    text = text[text.index("(:init") : text.index("(:goal")]
    names = _names(set(_ID.findall(text)))
    static = {m[1] for m in re.finditer(r"\(receptacletype\s+(\S+)\s", text) if m[1] in names}
    receptacles = tuple((names[i], *_receptacle_place(i)) for i in sorted(static))
    spots = tuple((names[i], _spot(i)) for i in sorted(names) if i.startswith("loc_bar_"))
    return Room(receptacles, spots)


def _names(ids: set[str]) -> dict[str, str]:
    """Names as ALFWorld's demangler gives them: the first id of a class, in alphabetical order, has the last number."""
    classes = {i: i.split("_bar_", 1)[0] + ("basin" if "basin" in i else "") for i in ids}
    left = Counter(classes.values())
    names = {}
    for i in sorted(ids):
        names[i] = f"{classes[i]} {left[classes[i]]}"
        left[classes[i]] -= 1
    return names


def _parts(identifier: str) -> list[str]:
    for mangled, plain in _WORDS.items():
        identifier = identifier.replace(mangled, plain)
    return identifier.split("|")


def _receptacle_place(identifier: str) -> tuple[float, float]:
    _, x, _, z, *_ = _parts(identifier)
    return float(x), float(z)


def _spot(identifier: str) -> Spot:
    """A place's id is `loc|x|z|turn|horizon` in steps of a quarter of a metre."""
    _, x, z, turn, _ = _parts(identifier)
    return Spot(int(x) / 4, int(z) / 4, int(turn) % 4)

"""What an agent in ALFWorld can see, and the map of its room: everything that an image is drawn from.

`seen` is the only place where the true state becomes an observation. It keeps the contents of the open receptacles at
the agent's place and the object in its hand. It never looks at the goal.
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
"""The visible states of an object, in the order in which they are shown."""

_ID = re.compile(r"\b[a-z]\w*?_bar_\w+")
_WORDS = {"_bar_": "|", "_minus_": "-", "_plus_": "+", "_dot_": ".", "_comma_": ","}


@dataclass(frozen=True)
class Thing:
    """An object in view: its name (`apple 1`) and its visible states, some of `MARKS`."""

    name: str
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Receptacle:
    """A receptacle at the agent's place. `is_open` is None if it cannot be opened; `things` are in view."""

    name: str
    is_open: bool | None
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Spot:
    """A place of the agent: x and z on the floor in metres, and its direction in quarter turns from north."""

    x: float
    z: float
    turn: int


@dataclass(frozen=True)
class Room:
    """The map of a room: the positions of the receptacles (name, x and z in metres) and the places of the agent.

    A player knows it from the start: the first text lists the receptacles, and they do not move.
    """

    receptacles: tuple[tuple[str, float, float], ...]
    spots: tuple[tuple[str, Spot], ...]


@dataclass(frozen=True)
class Seen:
    """Everything that an image shows: the receptacles at the agent's place, its hand, the room and its location."""

    receptacles: tuple[Receptacle, ...]
    held: Thing | None
    room: Room
    location: str


def seen(situation: Situation, room: Room) -> Seen:
    """What the agent can see: nothing inside closed or distant receptacles, and nothing about the goal."""
    facts = situation.facts
    openable = {fact[1] for fact in facts if fact[0] == "openable"}
    opened = {fact[1] for fact in facts if fact[0] == "opened"}
    marks = _marks(facts)
    near = []
    for name in sorted(situation.at, key=natural_order):
        is_open = name in opened if name in openable else None
        inside = sorted((f[1] for f in facts if f[0] == "inreceptacle" and f[2] == name), key=natural_order)
        # A receptacle that cannot be opened (None) shows its contents, a closed one (False) does not.
        things = tuple(Thing(thing, marks.get(thing, ())) for thing in inside) if is_open is not False else ()
        near.append(Receptacle(name, is_open, things))
    held = None if situation.held is None else Thing(situation.held, marks.get(situation.held, ()))
    return Seen(tuple(near), held, room, situation.location)


def marks_of(situation: Situation, name: str) -> tuple[str, ...]:
    """The visible states of an object, some of `MARKS`."""
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
    """Read the map of a room from the ids in a game's PDDL problem, which contain coordinates.

    Args:
        problem: the text under `pddl_problem` in a game file.

    Raises:
        ValueError, IndexError: the problem has no such ids.
    """
    text = problem.lower()  # the engine's names are in lower case
    # Only ids that occur in facts count, because ALFWorld's demangler numbers no others.
    text = text[text.index("(:init") : text.index("(:goal")]
    names = _names(set(_ID.findall(text)))
    static = {m[1] for m in re.finditer(r"\(receptacletype\s+(\S+)\s", text) if m[1] in names}
    receptacles = tuple((names[i], *_receptacle_place(i)) for i in sorted(static))
    spots = tuple((names[i], _spot(i)) for i in sorted(names) if i.startswith("loc_bar_"))
    return Room(receptacles, spots)


def _names(ids: set[str]) -> dict[str, str]:
    """The name of each id, as ALFWorld's demangler numbers them."""
    # A basin's id begins with the class of its sink or bathtub, without the word "basin".
    classes = {i: i.split("_bar_", 1)[0] + ("basin" if "basin" in i else "") for i in ids}
    left = Counter(classes.values())
    names = {}
    for i in sorted(ids):  # the demangler counts down: the first id in alphabetical order has the highest number
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
    """Read the id of a place, `loc|x|z|turn|horizon`, with x and z in steps of 0.25 m."""
    _, x, z, turn, _ = _parts(identifier)
    return Spot(int(x) / 4, int(z) / 4, int(turn) % 4)

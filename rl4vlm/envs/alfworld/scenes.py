"""The rooms of generated games: ALFWorld's scene layouts with some of their receptacles.

ALFWorld's wheel contains the layouts of AI2-THOR's 120 rooms: the id of each receptacle with its coordinates, and the
point from which the agent uses it. Stove burners, coffee machines and toasters are missing, so no generated game has
them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.library import load

KINDS = ("Kitchen", "LivingRoom", "Bedroom", "Bathroom")
NEEDED = ("Fridge", "Microwave", "SinkBasin")
"""Receptacles that cool, heat and clean objects. Every room that has one keeps it."""


@dataclass(frozen=True)
class Receptacle:
    """A receptacle of a scene: its id (`Fridge|+01.98|+00.00|-00.54`), its class, and the place it is used from."""

    id: str
    kind: str
    place: str


@dataclass(frozen=True)
class Scene:
    """A room of AI2-THOR.

    Attributes:
        number: number of its floor plan.
        kind: one of `KINDS`.
        receptacles: the receptacles that are kept.
        places: where the agent may start, `loc|x|z|quarter turns|tilt` with x and z in steps of 0.25 m. No receptacle
            is used from there.
        objects: the classes of objects that belong in this room.
    """

    number: int
    kind: str
    receptacles: tuple[Receptacle, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]

    def of_kind(self, kind: str) -> tuple[Receptacle, ...]:
        return tuple(receptacle for receptacle in self.receptacles if receptacle.kind == kind)


def constants() -> Any:
    """ALFWorld's tables: which receptacle holds what, which object allows which action, which scenes are held out."""
    return load("alfworld.gen.constants")


def scene_numbers(kind: str, rooms: int, *, held_out: bool) -> tuple[int, ...]:
    """The first `rooms` scenes of a kind, from ALFRED's training scenes or from its held-out ones.

    Raises:
        ValueError: there are fewer scenes.
    """
    tables = constants()
    division = tables.TEST_SCENE_NUMBERS if held_out else tables.TRAIN_SCENE_NUMBERS
    numbers = sorted(number for number in division if number in tables.SCENE_TYPE[kind])
    if not 1 <= rooms <= len(numbers):
        raise ValueError(f"cannot use {rooms} rooms of the kind {kind}: there are 1 to {len(numbers)}")
    return tuple(numbers[:rooms])


@cache
def read_scene(number: int, receptacles: int) -> Scene:
    """Read a scene and keep at most `receptacles` of its receptacles, always the same ones."""
    import numpy as np

    folder = Path(constants().__file__).parent / "layouts"
    plan = json.loads((folder / f"FloorPlan{number}-openable.json").read_text(encoding="utf-8"))
    classes = json.loads((folder / f"FloorPlan{number}-objects.json").read_text(encoding="utf-8"))
    points = np.load(folder / f"FloorPlan{number}-layout.npy")
    kept = _chosen([Receptacle(id, _kind_of(id), _place(*point)) for id, point in sorted(plan.items())], receptacles)
    taken = {receptacle.place for receptacle in kept}
    # The agent starts with its camera 30 degrees down, as in ALFRED.
    places = {_place(x, z, turn, 30) for x, z in points.tolist() for turn in (0, 90, 180, 270)}
    return Scene(
        number=number,
        kind=next(kind for kind in KINDS if number in constants().SCENE_TYPE[kind]),
        receptacles=kept,
        places=tuple(sorted(places - taken)),
        objects=tuple(sorted(classes)),
    )


def _chosen(found: Sequence[Receptacle], most: int) -> tuple[Receptacle, ...]:
    """The receptacles to keep, in the order in which they were found.

    Those in `NEEDED` are kept first, then one of each class, then others. If several receptacles are used from one
    place, all but one of them come last.
    """
    numbers: Counter[str] = Counter()
    ranked = []
    for receptacle in found:
        number = numbers[receptacle.kind]
        numbers[receptacle.kind] += 1
        needed = receptacle.kind in NEEDED and number == 0
        ranked.append((not needed, number, receptacle.kind, receptacle.id, receptacle.place))
    alone: dict[str, str] = {}
    for *_, id, place in sorted(ranked):
        alone.setdefault(place, id)
    order = sorted(ranked, key=lambda rank: (rank[0], rank[3] != alone[rank[4]], rank))
    kept = {id for *_, id, _ in order[:most]}
    return tuple(receptacle for receptacle in found if receptacle.id in kept)


def _kind_of(id: str) -> str:
    """The class of a receptacle. A basin's id begins with that of its sink or bathtub and ends with its own class."""
    parts = id.split("|")
    return parts[4] if len(parts) > 4 else parts[0]


def _place(x: float, z: float, turn: float, tilt: float) -> str:
    return f"loc|{round(x * 4)}|{round(z * 4)}|{round(turn / 90) % 4}|{round(tilt)}"

"""A drafted game (its goal and the positions of its objects), and the game files that describe it to the engine."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.games import GAME, TRAJECTORY, UNKNOWN_GOAL, GameData
from rl4vlm.envs.alfworld.library import load, shipped
from rl4vlm.envs.alfworld.scenes import Receptacle, Scene, constants
from rl4vlm.envs.alfworld.types import Goal, Source, TaskType

LAMP = "DeskLamp"
_MANGLED = {"-": "_minus_", "|": "_bar_", "+": "_plus_", ".": "_dot_", ",": "_comma_"}
_ABILITIES = ("Heatable", "Coolable", "Cleanable", "Toggleable", "Sliceable")


@dataclass(frozen=True)
class Placed:
    """An object of a game: its id (`Apple|+01.81|+01.06|-01.19`), its class and the id of its receptacle."""

    id: str
    kind: str
    receptacle: str


@dataclass(frozen=True)
class Draft:
    """A game that is not yet solved. `target` and `receptacle` are classes; `receptacle` is None for Look."""

    name: str
    scene: Scene
    task_type: TaskType
    target: str
    receptacle: str | None
    wording: str
    start: str
    objects: tuple[Placed, ...]

    @property
    def folder(self) -> str:
        """`<type>-<Object>-None-<Receptacle>-<scene>/<trial>`, as in the benchmark."""
        last = self.receptacle or LAMP
        return f"{self.task_type.folder_prefix}-{self.target}-None-{last}-{self.scene.number}/{self.name}"

    @property
    def arrangement(self) -> tuple[Any, ...]:
        """The room, the goal, and which class of object lies where. Games that share them look alike to a player."""
        lying = tuple(sorted((item.kind, item.receptacle) for item in self.objects))
        return self.scene.number, self.task_type, self.target, self.receptacle, lying

    def game_data(self, walkthrough: tuple[str, ...] | None = None) -> GameData:
        """The game as the engine reads it."""
        goal_text = self.wording.format(**self._words(str.lower))
        return GameData(
            file=Path(self.folder, GAME),
            goal=Goal(
                task_type=self.task_type,
                object_class=self.target.lower(),
                receptacle=None if self.receptacle is None else self.receptacle.lower(),
                lamp=LAMP.lower() if self.receptacle is None else None,
            ),
            goal_text=f"{goal_text}.",
            source=Source.GENERATED,
            domain=shipped("alfred.pddl"),
            grammar=shipped("alfred.twl2").replace(UNKNOWN_GOAL, f"{goal_text}."),
            problem=self._problem(),
            walkthrough=walkthrough,
            scene=self.scene.number,
        )

    def files(self, walkthrough: tuple[str, ...]) -> dict[str, str]:
        """The contents of the game's two files, by file name."""
        game = self.game_data(walkthrough)
        content = {
            "pddl_domain": game.domain,
            "grammar": game.grammar,
            "pddl_problem": game.problem,
            "solvable": True,
            "walkthrough": list(walkthrough),
        }
        trajectory = {
            "task_id": self.name,
            "task_type": self.task_type.folder_prefix,
            "pddl_params": {
                "mrecep_target": "",
                "object_sliced": False,
                "object_target": self.target,
                "parent_target": self.receptacle or "",
                "toggle_target": LAMP if self.receptacle is None else "",
            },
            "scene": {"floor_plan": f"FloorPlan{self.scene.number}", "scene_num": self.scene.number},
            "source": Source.GENERATED.value,
        }
        return {GAME: json.dumps(content), TRAJECTORY: json.dumps(trajectory, indent=2) + "\n"}

    def _words(self, spell: Any) -> dict[str, str]:
        return {"obj": spell(self.target), "recep": spell(self.receptacle or ""), "toggle": spell(LAMP)}

    def _problem(self) -> str:
        receptacles = {receptacle.id: receptacle for receptacle in self.scene.receptacles}
        places = sorted({self.start, *(receptacle.place for receptacle in receptacles.values())})
        things = [f"{item.id} - object" for item in self.objects]
        things += [f"{id} - receptacle" for id in receptacles] + [f"{place} - location" for place in places]
        facts = [f"atLocation agent1 {self.start}"]
        facts += [fact for receptacle in receptacles.values() for fact in _receptacle_facts(receptacle)]
        facts += [fact for item in self.objects for fact in _object_facts(item, receptacles[item.receptacle])]
        facts += _fitting({r.kind for r in receptacles.values()}, {item.kind for item in self.objects})
        # ALFWorld's templates write `#` for the `-` before a type, which is put back below.
        goal = load("alfworld.gen.goal_library").gdict[self.task_type.folder_prefix]["pddl"]
        for name, word in self._words(str).items():
            goal = goal.replace(f"{{{name}}}", word)
        return (
            f"(define (problem plan_{self.name})\n(:domain alfred)\n(:objects\nagent1 - agent\n{_classes()}\n"
            f"{_lines(things)}\n)\n(:init\n{_lines(f'({fact})' for fact in facts)}\n)\n{goal.replace('#', '-')}"
        )


def wordings(task_type: TaskType) -> tuple[str, ...]:
    """ALFWorld's sentences for a type of goal, with the fields `{obj}`, `{recep}` and `{toggle}`."""
    return tuple(load("alfworld.gen.goal_library").gdict[task_type.folder_prefix]["templates"])


def portable() -> dict[str, tuple[str, ...]]:
    """For each class of objects except slices, the classes of receptacles that may hold it. Both are sorted."""
    fits: dict[str, set[str]] = {}
    for receptacle, kinds in constants().VAL_RECEPTACLE_OBJECTS.items():
        for kind in kinds:
            if not kind.endswith("Sliced"):
                fits.setdefault(kind, set()).add(receptacle)
    return {kind: tuple(sorted(fits[kind])) for kind in sorted(fits)}


def can(ability: str, kind: str) -> bool:
    """Whether a class of objects has an ability: `Heatable`, `Coolable`, `Cleanable`, `Toggleable` or `Sliceable`."""
    return kind in constants().VAL_ACTION_OBJECTS[ability]


def _receptacle_facts(receptacle: Receptacle) -> list[str]:
    facts = [f"receptacleType {receptacle.id} {receptacle.kind}Type"]
    facts.append(f"receptacleAtLocation {receptacle.id} {receptacle.place}")
    if receptacle.kind in constants().OPENABLE_CLASS_SET:
        facts.append(f"openable {receptacle.id}")
    return facts


def _object_facts(item: Placed, receptacle: Receptacle) -> list[str]:
    facts = [f"objectType {item.id} {item.kind}Type", f"inReceptacle {item.id} {receptacle.id}"]
    facts.append(f"objectAtLocation {item.id} {receptacle.place}")
    facts += [f"{ability.lower()} {item.id}" for ability in _ABILITIES if can(ability, item.kind)]
    if item.kind in constants().MOVABLE_RECEPTACLES_SET:
        facts.append(f"isReceptacleObject {item.id}")
    if item.kind != LAMP:  # ALFWorld's lamps are used where they stand
        facts.append(f"pickupable {item.id}")
    return facts


def _fitting(receptacles: set[str], objects: set[str]) -> list[str]:
    fits = portable()
    return [
        f"canContain {receptacle}Type {kind}Type"
        for receptacle in sorted(receptacles)
        for kind in sorted(objects)
        if receptacle in fits.get(kind, ())
    ]


@cache
def _classes() -> str:
    """Declarations of all types of objects and receptacles, since the domain refers to types that a game may lack."""
    tables = constants()
    fixed = tables.RECEPTACLES - tables.MOVABLE_RECEPTACLES_SET
    lines = [f"{kind}Type - otype" for kind in sorted(tables.OBJECTS_SET - fixed)]
    return "\n".join(lines + [f"{kind}Type - rtype" for kind in sorted(fixed)])


def _lines(items: Any) -> str:
    return "\n".join(_mangled(item) for item in items)


def _mangled(text: str) -> str:
    """Escape the characters of ids that PDDL does not allow. The `-` before a type stays."""
    before, dash, after = text.partition(" - ")
    return re.sub(r"[-|+.,]", lambda found: _MANGLED[found[0]], before) + dash + after


def spot_ids(kind: str, receptacle: Receptacle, offsets: Sequence[tuple[float, float]]) -> list[str]:
    """Ids of objects of a class in or on a receptacle, at `offsets` (x, z in metres) from its centre."""
    x, height, z = (float(number) for number in receptacle.id.split("|")[1:4])
    return [f"{kind}|{x + dx:+06.2f}|{height:+06.2f}|{z + dz:+06.2f}" for dx, dz in offsets]

"""Games for those who have none: all six task types, in ALFWorld's scenes, rules and words, each one solved.

Everything in a game but who lies where is ALFWorld's own: the domain, the grammar, the goals, the floor plans, the
tables of what fits where. The arrangements are this project's, and so is the choice of rooms: results on these games
are not results on the benchmark.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.core.files import atomic_directory
from rl4vlm.core.seeding import stream
from rl4vlm.envs.alfworld.games import GameData
from rl4vlm.envs.alfworld.problem import LAMP, Draft, Placed, can, portable, spot_ids, wordings
from rl4vlm.envs.alfworld.scenes import KINDS, Receptacle, Scene, constants, read_scene, scene_numbers
from rl4vlm.envs.alfworld.types import Source, TaskType
from rl4vlm.results.provenance import write_run_record

STAGE = "alfworld_games"
MANIFEST = "manifest.json"
ROUNDS = 20
"""How often a game is drafted anew that has no solution, before the settings are blamed."""

_DEVICES = {
    TaskType.CLEAN: ("Cleanable", "SinkBasin"),
    TaskType.HEAT: ("Heatable", "Microwave"),
    TaskType.COOL: ("Coolable", "Fridge"),
}
_LAMP_STANDS = ("Desk", "Dresser", "SideTable", "Shelf", "DiningTable", "CoffeeTable")

Solve = Callable[[Sequence[GameData]], list[tuple[str, ...] | None]]
"""Finds each game's walkthrough, None where the planner finds none or the engine does not agree that it wins."""


def run(*, out: Path, settings: GamesSettings, processes: int | None = None) -> dict[str, Any]:
    """Write a folder of games in the benchmark's layout; `out` appears when it is complete. Returns the manifest.

    They are solved in `processes` processes, by default one a core. The same settings write the same games, byte for
    byte, whatever that number and Python's hash seed; only `run.json` tells of the machine and the time.

    Raises:
        ValueError: the settings allow no game of some type, or `out` holds something other than earlier games of this
            command.
    """
    from rl4vlm.envs.alfworld.workers.solvers import Solvers

    started = time.monotonic()
    with atomic_directory(out, replaces=[STAGE]) as folder, Solvers(processes) as solve:
        manifest = generate(folder, settings, solve)
        seconds = time.monotonic() - started
        seeds = {"games": settings.seed}
        write_run_record(folder, stage=STAGE, settings=asdict(settings), seeds=seeds, inputs={}, seconds=seconds)
    return manifest


def generate(folder: Path, settings: GamesSettings, solve: Solve) -> dict[str, Any]:
    """Fill a folder with games and `manifest.json`: settings, games by split and type, and how many were dropped."""
    known: set[Any] = set()
    manifest: dict[str, Any] = {
        "generator": "rl4vlm alfworld-games",
        "source": Source.GENERATED.value,
        "note": "Generated games. They are not the ALFWorld benchmark, and results on them are not comparable with it.",
        "settings": asdict(settings),
        "packages": {name: version(name) for name in ("alfworld", "textworld", "fast_downward_textworld")},
        "games": {},
        "dropped": {},
    }
    counts = {"train": settings.train, "valid_seen": settings.seen, "valid_unseen": settings.unseen}
    for split, count in counts.items():
        solved, manifest["dropped"][split] = _solved_games(split, count, settings, solve, known)
        for draft, walkthrough in solved:
            _write(folder / split / draft.folder, draft.files(walkthrough))
        types = Counter(draft.task_type for draft, _ in solved)
        manifest["games"][split] = {task_type.value: types[task_type] for task_type in TaskType}
    _write(folder, {MANIFEST: json.dumps(manifest, indent=2) + "\n"})
    return manifest


def _solved_games(
    split: str, count: int, settings: GamesSettings, solve: Solve, known: set[Any]
) -> tuple[list[tuple[Draft, tuple[str, ...]]], int]:
    """The games of a split with their walkthroughs, and how many drafts had none. `known` are all games so far."""
    solved: dict[int, tuple[Draft, tuple[str, ...]]] = {}
    dropped = 0
    for attempt in range(ROUNDS + 1):
        open_numbers = [number for number in range(count) if number not in solved]
        if not open_numbers:
            return [solved[number] for number in range(count)], dropped
        drafts = [_new_draft(split, number, attempt, settings, known) for number in open_numbers]
        for number, draft, walkthrough in zip(
            open_numbers, drafts, solve([draft.game_data() for draft in drafts]), strict=True
        ):
            if walkthrough is None or len(walkthrough) > settings.longest:
                dropped += 1
            else:
                solved[number] = (draft, walkthrough)
    raise ValueError(f"{count - len(solved)} games of {split} could not be solved in {ROUNDS} rounds: change settings")


def _new_draft(split: str, number: int, attempt: int, settings: GamesSettings, known: set[Any]) -> Draft:
    """A game that no other one is the same as."""
    task_type = tuple(TaskType)[number % len(TaskType)]
    for turn in range(100):
        rng = stream(settings.seed, "alfworld game", split, number, attempt, turn)
        drafted = draft_game(
            _scenes(split, task_type, settings), task_type, settings.distractors, rng, f"trial_{split}_{number:04d}"
        )
        if drafted.arrangement not in known:
            known.add(drafted.arrangement)
            return drafted
    raise ValueError(f"no more different games of {task_type} in {split}: allow more rooms, receptacles or distractors")


def _scenes(split: str, task_type: TaskType, settings: GamesSettings) -> list[Scene]:
    """The rooms in which a task makes sense, of those that the split uses."""
    held_out = split == "valid_unseen"
    rooms = settings.unseen_rooms if held_out else settings.rooms
    valid = constants().GOALS_VALID[task_type.folder_prefix]
    return [
        read_scene(number, settings.receptacles)
        for kind in KINDS
        if kind in valid
        for number in scene_numbers(kind, rooms, held_out=held_out)
    ]


def draft_game(
    scenes: Sequence[Scene], task_type: TaskType, distractors: int, rng: np.random.Generator, name: str
) -> Draft:
    """A game at random: a task that some scene allows, its objects where it is not yet done, and other things around.

    Raises:
        ValueError: none of the scenes allows the task.
    """
    possible = [(scene, *task) for scene in scenes for task in _tasks(scene, task_type)]
    if not possible:
        numbers = ", ".join(str(scene.number) for scene in scenes)
        raise ValueError(f"no game of {task_type} fits the scenes {numbers}: allow more rooms or receptacles")
    number = _pick(rng, sorted({scene.number for scene, *_ in possible}))  # first the scene: not all allow as much
    scene, target, goal = _pick(rng, [task for task in possible if task[0].number == number])
    room = _Room(scene, rng)
    copies = 2 if task_type is TaskType.PICK2 else 1
    for _ in range(copies + int(rng.integers(2))):
        room.put(target, avoid=goal)
    if task_type is TaskType.LOOK:
        room.put_on(LAMP, _pick(rng, _stands(scene)))
    others = [kind for kind in scene.objects if kind != target and room.homes(kind)]
    for kind in _sample(rng, others, distractors):
        room.put(kind)
    return Draft(
        name=name,
        scene=scene,
        task_type=task_type,
        target=target,
        receptacle=goal,
        wording=_pick(rng, wordings(task_type)),
        start=_pick(rng, scene.places),
        objects=tuple(room.objects),
    )


def _tasks(scene: Scene, task_type: TaskType) -> list[tuple[str, str | None]]:
    """The pairs of object and receptacle classes that a task of this type can name in a scene."""
    here = {receptacle.kind for receptacle in scene.receptacles}
    ability, device = _DEVICES.get(task_type, (None, None))
    if (device is not None and device not in here) or (task_type is TaskType.LOOK and not _stands(scene)):
        return []
    tasks: list[tuple[str, str | None]] = []
    for kind, homes in portable().items():
        fitting = [home for home in homes if home in here]
        if kind not in scene.objects or not fitting or (ability is not None and not can(ability, kind)):
            continue
        if task_type is TaskType.LOOK:
            tasks.append((kind, None))
        else:
            tasks += [(kind, home) for home in fitting if home != device and len(fitting) > 1]
    return tasks


def _stands(scene: Scene) -> list[Receptacle]:
    return [receptacle for receptacle in scene.receptacles if receptacle.kind in _LAMP_STANDS]


class _Room:
    """A scene being filled with objects."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.objects: list[Placed] = []
        self._scene, self._rng = scene, rng
        self._fits = portable()

    def homes(self, kind: str, avoid: str | None = None) -> list[Receptacle]:
        """The receptacles that an object of a class may lie in; none of the class `avoid`."""
        kinds = self._fits.get(kind, ())
        return [r for r in self._scene.receptacles if r.kind in kinds and r.kind != avoid]

    def put(self, kind: str, avoid: str | None = None) -> None:
        self.put_on(kind, _pick(self._rng, self.homes(kind, avoid)))

    def put_on(self, kind: str, receptacle: Receptacle) -> None:
        """Put an object of a class somewhere on a receptacle, at a spot that gives it an id of its own."""
        taken = {item.id for item in self.objects}
        while True:
            offset = (float(self._rng.integers(-30, 31)) / 100, float(self._rng.integers(-30, 31)) / 100)
            (id,) = spot_ids(kind, receptacle, [offset])
            if id not in taken:
                self.objects.append(Placed(id, kind, receptacle.id))
                return


def _pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def _sample(rng: np.random.Generator, items: Sequence[Any], count: int) -> list[Any]:
    return [items[int(index)] for index in rng.permutation(len(items))[:count]]


def _write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")

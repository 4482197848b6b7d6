"""Generate ALFWorld games if you do not have the official ones: all six task types, each game checked to be solvable.

The domain, the grammar, the goals, the floor plans and the tables of what fits where are ALFWorld's own. The choice of
rooms and the positions of the objects are this project's, so results on these games are not results on the benchmark.
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
from rl4vlm.core.output import stage_output
from rl4vlm.core.seeding import stream
from rl4vlm.envs.alfworld.games import GameData
from rl4vlm.envs.alfworld.problem import LAMP, Draft, Placed, can, portable, spot_ids, wordings
from rl4vlm.envs.alfworld.scenes import KINDS, Receptacle, Scene, constants, read_scene, scene_numbers
from rl4vlm.envs.alfworld.types import Source, TaskType
from rl4vlm.results.provenance import MANIFEST, write_run_record

STAGE = "alfworld_games"
ROUNDS = 20
"""How often a game without a solution is drafted again. After that, an error asks for other settings."""

_DEVICES = {
    TaskType.CLEAN: ("Cleanable", "SinkBasin"),
    TaskType.HEAT: ("Heatable", "Microwave"),
    TaskType.COOL: ("Coolable", "Fridge"),
}
_LAMP_STANDS = ("Desk", "Dresser", "SideTable", "Shelf", "DiningTable", "CoffeeTable")

Solve = Callable[[Sequence[GameData]], list[tuple[str, ...] | None]]
"""Finds a walkthrough for each game. None if the planner finds none, or the engine does not confirm that it wins."""


def run(*, out: Path, settings: GamesSettings, processes: int | None = None) -> dict[str, Any]:
    """Write a folder of games in the benchmark's layout.

    The same settings give the same bytes, whatever the number of processes and Python's hash seed. Only `run.json`
    depends on the machine and the time.

    Args:
        out: the folder; it appears when it is complete.
        settings: which games to generate.
        processes: number of processes that solve the games, by default one per core.

    Returns:
        The manifest.

    Raises:
        ValueError: the settings allow no game of some type, or `out` holds anything but games of an earlier call.
    """
    from rl4vlm.envs.alfworld.workers.solvers import Solvers

    started = time.monotonic()
    with stage_output(out, [STAGE]) as folder, Solvers(processes) as solve:
        manifest = generate(folder, settings, solve)
        seconds = time.monotonic() - started
        seeds = {"games": settings.seed}
        write_run_record(folder, stage=STAGE, settings=asdict(settings), seeds=seeds, inputs={}, seconds=seconds)
    return manifest


def generate(folder: Path, settings: GamesSettings, solve: Solve) -> dict[str, Any]:
    """Write games and `manifest.json`: the settings, the games by split and type, and the number of dropped drafts."""
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
    """The games of a split with their walkthroughs, and the number of dropped drafts. `known` are all games so far."""
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
            # A walkthrough near the limit of 50 steps would leave a learner no room for errors.
            if walkthrough is None or len(walkthrough) > settings.longest:
                dropped += 1
            else:
                solved[number] = (draft, walkthrough)
    raise ValueError(
        f"{count - len(solved)} games of {split} could not be solved in {ROUNDS} rounds: change the settings"
    )


def _new_draft(split: str, number: int, attempt: int, settings: GamesSettings, known: set[Any]) -> Draft:
    """Draft a game that differs from all others."""
    task_type = tuple(TaskType)[number % len(TaskType)]
    for turn in range(100):
        # A stream per draft, so that this one does not depend on whether other games could be solved.
        rng = stream(settings.seed, "alfworld game", split, number, attempt, turn)
        drafted = draft_game(
            _scenes(split, task_type, settings), task_type, settings.distractors, rng, f"trial_{split}_{number:04d}"
        )
        if drafted.arrangement not in known:
            known.add(drafted.arrangement)
            return drafted
    raise ValueError(f"no more different games of {task_type} in {split}: allow more rooms, receptacles or distractors")


def _scenes(split: str, task_type: TaskType, settings: GamesSettings) -> list[Scene]:
    """The rooms of a split in which a task makes sense."""
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
    """Draft a random game: a goal, its objects at places where it is not yet reached, and other objects.

    Raises:
        ValueError: none of the scenes allows a task of this type.
    """
    possible = [(scene, *task) for scene in scenes for task in _tasks(scene, task_type)]
    if not possible:
        numbers = ", ".join(str(scene.number) for scene in scenes)
        raise ValueError(f"no game of {task_type} fits the scenes {numbers}: allow more rooms or receptacles")
    # Draw the scene first: some allow many more goals than others, and would be drawn too often.
    number = _pick(rng, sorted({scene.number for scene, *_ in possible}))
    scene, target, goal = _pick(rng, [task for task in possible if task[0].number == number])
    room = _Room(scene, rng)
    # In half of the games, chance adds one object more than the goal needs.
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
    """The pairs of object class and receptacle class that a task of this type can have in a scene."""
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
            # The object is not to stay in the device, and needs a second class of receptacle to start in.
            tasks += [(kind, home) for home in fitting if home != device and len(fitting) > 1]
    return tasks


def _stands(scene: Scene) -> list[Receptacle]:
    return [receptacle for receptacle in scene.receptacles if receptacle.kind in _LAMP_STANDS]


class _Room:
    """A scene that is being filled with objects."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.objects: list[Placed] = []
        self._scene, self._rng = scene, rng
        self._fits = portable()

    def homes(self, kind: str, avoid: str | None = None) -> list[Receptacle]:
        """The receptacles that may hold an object of a class, without those of the class `avoid`."""
        kinds = self._fits.get(kind, ())
        return [r for r in self._scene.receptacles if r.kind in kinds and r.kind != avoid]

    def put(self, kind: str, avoid: str | None = None) -> None:
        self.put_on(kind, _pick(self._rng, self.homes(kind, avoid)))

    def put_on(self, kind: str, receptacle: Receptacle) -> None:
        """Put an object of a class at a random spot in or on a receptacle."""
        taken = {item.id for item in self.objects}
        while True:
            offset = (float(self._rng.integers(-30, 31)) / 100, float(self._rng.integers(-30, 31)) / 100)
            # The id holds the coordinates. Draw again if another object has the same.
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

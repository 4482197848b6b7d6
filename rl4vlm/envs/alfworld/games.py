"""Find and read games: `<data>/<split>/<type>-<Object>-None-<Receptacle>-<scene>/<trial>/`.

A game is a pair of files, `traj_data.json` (the goal) and `game.tw-pddl` (domain, grammar, problem). The benchmark's
games and this project's generated games have the same layout. Each `traj_data.json` of a generated game says
`"source": "generated"`, so that the label is not lost when folders are copied.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rl4vlm.core.files import read_json
from rl4vlm.core.output import check_unchanged
from rl4vlm.envs.alfworld.types import Goal, Source, TaskType

SPLITS = ("train", "valid_seen", "valid_unseen")
GAME = "game.tw-pddl"
TRAJECTORY = "traj_data.json"
OFFICIAL_FOLDER = "json_2.1.1"
"""The folder below `ALFWORLD_DATA` in which `alfworld-download` puts the splits."""
NOT_PLAYABLE = ("movable", "Sliced")
"""Words in the paths of games that the text engine does not support. The benchmark leaves them out, too."""

_LOG = logging.getLogger(__name__)
_GOAL_LINE = re.compile(r"Your task is to: ([^\"\n]*)\"")
UNKNOWN_GOAL = "UNKNOWN GOAL."
"""The placeholder for the goal in the grammar that ALFWorld ships."""
_TYPES = {task_type.folder_prefix: task_type for task_type in TaskType}


class BadGame(ValueError):
    """A game that cannot be read or run. The message names its file. With `skip_bad_games` it is skipped."""


@dataclass(frozen=True)
class GameData:
    """A game as read from its two files.

    Attributes:
        file: path of its `game.tw-pddl`.
        goal: the goal.
        goal_text: the goal in words.
        source: who made the game.
        domain: text of the PDDL domain.
        grammar: text of the grammar of the engine's sentences.
        problem: text of the PDDL problem.
        walkthrough: commands that win the game, or None if the file has none, as in the benchmark.
        scene: number of the AI2-THOR floor plan, or None if `traj_data.json` does not give it.
    """

    file: Path
    goal: Goal
    goal_text: str
    source: Source
    domain: str
    grammar: str
    problem: str
    walkthrough: tuple[str, ...] | None
    scene: int | None

    @cached_property
    def goalless_grammar(self) -> str:
        """The grammar with a placeholder for the goal: one text for all games, so that it is parsed only once."""
        return self.grammar.replace(f"Your task is to: {self.goal_text}", f"Your task is to: {UNKNOWN_GOAL}")

    def with_goal(self, text: str) -> str:
        """Insert this game's goal into a text that was derived from `goalless_grammar`."""
        return text.replace(f"Your task is to: {UNKNOWN_GOAL}", f"Your task is to: {self.goal_text}")


@dataclass(frozen=True)
class GameSet:
    """The playable games of a split, sorted by path, and the skipped ones, each with its reason."""

    files: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...] = ()


def split_folder(data: Path, split: str) -> Path:
    """The folder of a split. `data` is the folder that `ALFWORLD_DATA` names, or its `json_2.1.1`.

    Raises:
        ValueError: the split or its folder does not exist; the message names it.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of ALFWorld's games: known are {', '.join(SPLITS)}")
    for folder in (data / OFFICIAL_FOLDER / split, data / split):
        if folder.is_dir():
            return folder
    missing = data / split if data.is_dir() else data
    raise ValueError(f"no ALFWorld games at {missing}: there is no such folder")


def find_games(
    data: Path, split: str, task_types: Collection[TaskType] = tuple(TaskType), *, skip_bad_games: bool = False
) -> GameSet:
    """Find, read and check all playable games of a split.

    As in the benchmark, games with movable receptacles or sliced objects are left out, and so are folders with a
    trajectory but no game. Unlike in the benchmark, a game that is unsolvable or was never checked is an error, as is
    one that is malformed or of an unknown type.

    Args:
        data: the folder that `ALFWORLD_DATA` names, or its `json_2.1.1`.
        split: one of `SPLITS`.
        task_types: leave out games of other types.
        skip_bad_games: log a bad game and list it in `skipped`, in place of an error.

    Raises:
        ValueError: the folder does not exist, a generated game differs from its checksum in `run.json`, a game is bad
            (the message names its file), or there is no game.
    """
    folder = split_folder(data, split)
    # Only generated games have a `run.json` to be compared with; official games pass.
    check_unchanged(folder)
    wanted, files, skipped, without_game = set(task_types), [], [], 0
    for trajectory in sorted(folder.rglob(TRAJECTORY)):
        # Look below the split's folder only: the words may occur in the path of the data folder.
        if any(word in trajectory.relative_to(folder).as_posix() for word in NOT_PLAYABLE):
            continue
        file = trajectory.with_name(GAME)
        if not file.exists():  # nearly half of the official training set
            without_game += 1
            continue
        try:
            game = read_game(file)
        except BadGame as error:
            if not skip_bad_games:
                raise BadGame(f"{error} (skip_bad_games: true skips it)") from error
            _LOG.warning("skipped: %s", error)
            skipped.append((file, str(error)))
            continue
        if game.goal.task_type in wanted:
            files.append(file)
    if without_game:
        _LOG.warning("%s: left out %d trials without a %s, as in the benchmark", folder, without_game, GAME)
    if not files:
        names, why = ", ".join(sorted(wanted)), f"{len(skipped)} were skipped as bad, {without_game} have no {GAME}"
        raise ValueError(f"no playable game of {names} in {folder}; {why}")
    return GameSet(tuple(files), tuple(skipped))


def read_game(file: Path) -> GameData:
    """Read and check one game, given as its `game.tw-pddl`.

    Raises:
        BadGame: a file is missing or malformed, the task type is unknown, or the game is marked as unsolvable or was
            never checked to be solvable; the message names the file.
    """
    game = _read_json(file)
    trajectory_file = file.with_name(TRAJECTORY)
    trajectory = _read_json(trajectory_file)
    goal = _read_goal(trajectory, trajectory_file)
    for key in ("pddl_domain", "grammar", "pddl_problem"):
        if not isinstance(game.get(key), str):
            raise BadGame(f"{file}: the entry {key!r} is missing or no text")
    if game.get("solvable") is not True:
        why = "is marked as unsolvable" if "solvable" in game else "was never checked to be solvable"
        raise BadGame(f"{file}: the game {why}")
    # The goal in words is written only in the grammar, as the last line of the welcome.
    found = _GOAL_LINE.search(game["grammar"])
    if found is None:
        raise BadGame(f"{file}: the grammar has no line 'Your task is to: …'")
    return GameData(
        file=file,
        goal=goal,
        goal_text=found[1],
        source=_source(trajectory, trajectory_file),
        domain=game["pddl_domain"],
        grammar=game["grammar"],
        problem=game["pddl_problem"],
        walkthrough=_walkthrough(game, file),
        scene=_scene_number(trajectory),
    )


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        return read_json(file)
    except OSError as error:
        raise BadGame(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise BadGame(str(error)) from None


def _read_goal(trajectory: Mapping[str, Any], file: Path) -> Goal:
    name = trajectory.get("task_type")
    if not isinstance(name, str) or name not in _TYPES:
        raise BadGame(f"{file}: unknown task type {name!r}; known are {', '.join(_TYPES)}")
    task_type = _TYPES[name]
    parameters = trajectory.get("pddl_params")
    if not isinstance(parameters, dict):
        raise BadGame(f"{file}: the entry 'pddl_params' is missing")
    target, look = _word(parameters, "object_target", file), task_type is TaskType.LOOK
    return Goal(
        task_type=task_type,
        object_class=target,
        receptacle=None if look else _word(parameters, "parent_target", file),
        lamp=_word(parameters, "toggle_target", file) if look else None,
    )


def _source(trajectory: Mapping[str, Any], file: Path) -> Source:
    """Who made the game. The benchmark's files do not say, so that is the default."""
    name = trajectory.get("source", Source.OFFICIAL)
    if name not in list(Source):
        raise BadGame(f"{file}: 'source' must be one of {', '.join(Source)}, not {name!r}")
    return Source(name)


def _word(parameters: Mapping[str, Any], key: str, file: Path) -> str:
    value = parameters.get(key)
    if not isinstance(value, str) or not value:
        raise BadGame(f"{file}: pddl_params[{key!r}] must be a class name, not {value!r}")
    return value.lower()


def _scene_number(trajectory: Mapping[str, Any]) -> int | None:
    scene = trajectory.get("scene")
    return scene.get("scene_num") if isinstance(scene, dict) else None


def _walkthrough(game: Mapping[str, Any], file: Path) -> tuple[str, ...] | None:
    commands = game.get("walkthrough")
    if commands is None:
        return None
    if not isinstance(commands, list) or not all(isinstance(command, str) for command in commands):
        raise BadGame(f"{file}: 'walkthrough' must be a list of commands")
    return tuple(commands)

"""Copies of games, and changes in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.games import GAME, TRAJECTORY


def copy_game(file: Path, folder: Path, **changed: Any) -> Path:
    """A copy of a game in `folder`, made if need be, with other entries in its `game.tw-pddl`; that file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRAJECTORY).write_text(file.with_name(TRAJECTORY).read_text())
    copy = folder / GAME
    copy.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    return copy


def change_goal(file: Path, task_type: str | None = None, **parameters: str) -> Path:
    """Change what a copy's trajectory says of the task, and nothing in the game; `file`."""
    trajectory = json.loads(file.with_name(TRAJECTORY).read_text())
    trajectory["task_type"] = task_type or trajectory["task_type"]
    trajectory["pddl_params"].update(parameters)
    file.with_name(TRAJECTORY).write_text(json.dumps(trajectory))
    return file

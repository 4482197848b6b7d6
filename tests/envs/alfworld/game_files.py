"""Copy games and change the copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.games import GAME, TRAJECTORY


def copy_game(file: Path, folder: Path, **changed: Any) -> Path:
    """Copy a game to `folder`, with changed entries in its `game.tw-pddl`. Returns the path of that file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRAJECTORY).write_text(file.with_name(TRAJECTORY).read_text())
    copy = folder / GAME
    copy.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    return copy


def change_goal(file: Path, task_type: str | None = None, **parameters: str) -> Path:
    """Change the goal in the `traj_data.json` of a copy, but not in the game itself. Returns `file`."""
    trajectory = json.loads(file.with_name(TRAJECTORY).read_text())
    trajectory["task_type"] = task_type or trajectory["task_type"]
    trajectory["pddl_params"].update(parameters)
    file.with_name(TRAJECTORY).write_text(json.dumps(trajectory))
    return file

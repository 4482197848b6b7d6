"""The backend `textworld`: ALFWorld's text engine in a worker process, shown in images drawn by this project."""

from __future__ import annotations

import weakref
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rl4vlm.envs.alfworld.games import BadGame, read_game
from rl4vlm.envs.alfworld.image import draw_seen
from rl4vlm.envs.alfworld.observation import Room, read_room, seen
from rl4vlm.envs.alfworld.types import Images, Situation
from rl4vlm.envs.alfworld.workers.engine_pool import open_game


class DrawnBackend:
    """Runs a game in the pool of workers that all environments of this process share.

    Its pickle holds the game file and the commands given. They are replayed when it is unpickled.
    """

    images: ClassVar[Images] = Images.DRAWN

    def __init__(self) -> None:
        self._open()
        self._situation: Situation | None = None

    def _open(self) -> None:
        self._game = open_game()
        # An environment may be garbage-collected without `close`. Without this, its game would keep the workers alive.
        self._leave = weakref.finalize(self, self._game.close)

    def start(self, game_file: str) -> Situation:
        """Start a game. Raises BadGame if the engine cannot run it, or its room has no map."""
        self._situation = self._game.start(game_file)
        _room(game_file)  # fail here rather than at the first image
        return self._situation

    def send(self, command: str) -> None:
        self._game.send_act(command)

    def receive(self) -> Situation:
        self._situation = self._game.receive()
        return self._situation

    def image(self) -> np.ndarray:
        assert self._situation is not None
        return draw_seen(seen(self._situation, _room(self._situation.game_file)))

    def close(self) -> None:
        self._leave()

    def __getstate__(self) -> dict[str, Any]:
        return {"state": None if self._situation is None else self._game.state()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self._open()
        self._situation = None if kept["state"] is None else self._game.restore(kept["state"])


@lru_cache(maxsize=256)
def _room(game_file: str) -> Room:
    try:
        return read_room(read_game(Path(game_file)).problem)
    except (ValueError, IndexError) as error:
        raise BadGame(f"{game_file}: cannot read the room's map from the ids of the problem ({error})") from error

"""ALFWorld's own engine, one game at a time: its PDDL domain, its grammar, Fast Downward's state and planner.

`translation` makes a game ready to start, `running` is one run of it; an engine starts them, and can come back to where
one was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl4vlm.envs.alfworld.games import BadGame, GameData
from rl4vlm.envs.alfworld.library import load
from rl4vlm.envs.alfworld.running import ILLEGAL, RunningGame
from rl4vlm.envs.alfworld.translation import load_for_translation, translate, translate_file
from rl4vlm.envs.alfworld.types import Situation


@dataclass(frozen=True)
class EngineState:
    """What an engine can be put back to exactly: the game and the commands that were given."""

    game_file: str
    commands: tuple[str, ...]


class Engine:
    """Runs one game at a time, in this process. `close` leaves the library's copy to the next engine."""

    def __init__(self) -> None:
        self._downward: Any = None
        self._run: RunningGame | None = None

    def start(self, game_file: str | Path) -> Situation:
        """Begin a game anew.

        Raises:
            BadGame: the game cannot be read, translated or begun.
        """
        translated = translate_file(Path(game_file))
        if self._downward is None:
            self._downward = _borrow_downward()
        self._run = None
        with _blamed_on(translated.game, "cannot be begun"):
            run = RunningGame(self._downward, translated)
            now = run.situation(run.welcome())
        self._run = run
        return now

    def act(self, command: str) -> Situation:
        """Give a command; one that is not admissible is answered by `ILLEGAL` and changes nothing but the count.

        Raises:
            ValueError: no game has been started, or it is over.
            BadGame: the game breaks at this command, and must be started anew.
        """
        run = self._started()
        if run.won:
            raise ValueError(f"{run.translated.game.file}: the game is over")
        self._run = None
        with _blamed_on(run.translated.game, f"breaks at the command {command!r}"):
            now = run.situation(run.act(command))
        self._run = run
        return now

    def state(self) -> EngineState:
        """What `restore` needs to come back here."""
        run = self._started()
        return EngineState(str(run.translated.game.file), tuple(run.commands))

    def restore(self, state: EngineState) -> Situation:
        """Begin the game of `state` anew and give its commands again; the engine knows no chance.

        Raises:
            BadGame: the game cannot be begun, or breaks at one of the commands.
        """
        situation = self.start(state.game_file)
        run = self._started()
        with _blamed_on(run.translated.game, "breaks where it is played again"):
            for command in state.commands[:-1]:
                run.act(command)
        return self.act(state.commands[-1]) if state.commands else situation

    def close(self) -> None:
        """Give back the library's copy. The engine can be started again."""
        self._run = None
        if self._downward is not None:
            _give_back_downward(self._downward)
            self._downward = None

    def _started(self) -> RunningGame:
        if self._run is None:
            raise ValueError("no game has been started")
        return self._run


def solve_and_check(game: GameData) -> tuple[str, ...] | None:
    """Commands that win a game, found by ALFWorld's planner and played to their end; None when there are none.

    A blind search: seconds for a small game, minutes for a large one. The plan depends on Python's hash seed.

    Raises:
        BadGame: the game cannot be translated, or breaks while it is planned or played.
    """
    translated = translate(game)
    with _downward() as library, _blamed_on(game, "cannot be planned"):
        commands = RunningGame(library, translated).plan()
    if not commands:
        return None
    with _downward() as library, _blamed_on(game, "breaks when its plan is played"):
        run = RunningGame(library, translated)
        answers = [run.act(command) for command in commands]
        return commands if run.won and ILLEGAL not in answers else None


def warm_up() -> None:
    """Do what the first game of a process takes a second or more for: load the libraries, parse their grammar."""
    load_for_translation()
    load("textworld.generator.game")


@contextmanager
def _blamed_on(game: GameData, what: str) -> Iterator[None]:
    """Turn what the libraries raise, as many things as a problem or grammar can lack, into BadGame with the file."""
    try:
        yield
    except BadGame:
        raise
    except Exception as error:
        raise BadGame(f"{game.file}: the game {what} ({type(error).__name__}: {error})") from error


_idle_downward: list[Any] = []
"""Copies of Fast Downward's library that no engine uses. One holds one game; none can be unloaded without a crash."""


@contextmanager
def _downward() -> Iterator[Any]:
    library = _borrow_downward()
    try:
        yield library
    finally:
        _give_back_downward(library)


def _borrow_downward() -> Any:
    return _idle_downward.pop() if _idle_downward else load("fast_downward").load_lib()


def _give_back_downward(downward: Any) -> None:
    downward.cleanup()
    _idle_downward.append(downward)

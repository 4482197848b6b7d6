"""ALFWorld's own engine for one game at a time: its PDDL domain, its grammar, Fast Downward's state and planner.

`translation` prepares a game, `running` is one run of it. An `Engine` starts runs and restores them.
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
    """The state of a run: its game file and its commands. The engine is deterministic, so they determine everything."""

    game_file: str
    commands: tuple[str, ...]


class Engine:
    """Runs one game at a time in this process."""

    def __init__(self) -> None:
        self._downward: Any = None
        self._run: RunningGame | None = None

    def start(self, game_file: str | Path) -> Situation:
        """Start a game.

        Raises:
            BadGame: the game cannot be read, translated or started.
        """
        translated = translate_file(Path(game_file))
        if self._downward is None:  # only now, after the translation, which may fail
            self._downward = _borrow_downward()
        self._run = None
        with _blamed_on(translated.game, "cannot be started"):
            run = RunningGame(self._downward, translated)
            now = run.situation(run.welcome())
        self._run = run
        return now

    def act(self, command: str) -> Situation:
        """Give a command. One that is not admissible is answered by `ILLEGAL` and only counts as a step.

        Raises:
            ValueError: no game has been started, or it is over.
            BadGame: the command breaks the game, which must be started again.
        """
        run = self._started()
        if run.won:
            raise ValueError(f"{run.translated.game.file}: the game is over")
        self._run = None  # kept only if the command succeeds
        with _blamed_on(run.translated.game, f"breaks at the command {command!r}"):
            now = run.situation(run.act(command))
        self._run = run
        return now

    def state(self) -> EngineState:
        """The argument with which `restore` returns here."""
        run = self._started()
        return EngineState(str(run.translated.game.file), tuple(run.commands))

    def restore(self, state: EngineState) -> Situation:
        """Start the game of `state` and repeat its commands.

        Raises:
            BadGame: the game cannot be started, or one of the commands breaks it.
        """
        situation = self.start(state.game_file)
        run = self._started()
        with _blamed_on(run.translated.game, "breaks when its commands are repeated"):
            for command in state.commands[:-1]:
                run.act(command)  # not `self.act`: only the last situation is needed
        return self.act(state.commands[-1]) if state.commands else situation

    def close(self) -> None:
        """Return the copy of Fast Downward's library for reuse. This engine can be started again."""
        self._run = None
        if self._downward is not None:
            _give_back_downward(self._downward)
            self._downward = None

    def _started(self) -> RunningGame:
        if self._run is None:
            raise ValueError("no game has been started")
        return self._run


def solve_and_check(game: GameData) -> tuple[str, ...] | None:
    """Find commands that win a game with ALFWorld's planner, and check them by playing. None if there are none.

    The planner's blind search takes seconds for a small game and minutes for a large one. Its plan depends on Python's
    hash seed.

    Raises:
        BadGame: the game cannot be translated, or breaks during planning or play.
    """
    translated = translate(game)
    with _downward() as library, _blamed_on(game, "cannot be planned"):
        commands = RunningGame(library, translated).plan()
    if not commands:
        return None
    # Planning changes the library's state, so the plan is played on a fresh one.
    with _downward() as library, _blamed_on(game, "breaks when its plan is played"):
        run = RunningGame(library, translated)
        answers = [run.act(command) for command in commands]
        return commands if run.won and ILLEGAL not in answers else None


def warm_up() -> None:
    """Load the libraries and parse the grammar. Otherwise the first game of a process takes a second or more longer."""
    load_for_translation()
    load("textworld.generator.game")


@contextmanager
def _blamed_on(game: GameData, what: str) -> Iterator[None]:
    """Turn any exception of the libraries into a BadGame that names the file."""
    try:
        yield
    except BadGame:
        raise
    except Exception as error:  # the libraries have no error of their own: each missing entry raises something else
        raise BadGame(f"{game.file}: the game {what} ({type(error).__name__}: {error})") from error


_idle_downward: list[Any] = []
"""Unused copies of Fast Downward's library. A copy holds one game, and unloading one crashes, so they are reused."""


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
    downward.cleanup()  # frees the game, but not all of its memory: see `STARTS_PER_WORKER`
    _idle_downward.append(downward)

"""What is asked of a worker process, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rl4vlm.envs.alfworld.games import BadGame

Outcome = Literal["done", "wrong", "bad game", "failed", "crash"]
"""How a request ended: well, by the asker's fault, the game's, the engine's, or with the death of two workers."""

Answer = tuple[Outcome, Any]
"""The outcome, and what the call returned or what was wrong, in words."""


class EngineCrash(RuntimeError):
    """A request killed the worker that served it, twice."""


@dataclass(eq=False)
class Request:
    """A call on a game's engine (`start`, `act`, `restore`, `close`) or on none (`solve`), and later its answer.

    Attributes:
        game: the number of the game in its pool.
        call: a name from above.
        arguments: what the call is given.
        awaited: whether somebody will ask for the answer; a pool's own requests have nobody who does.
        answer: None until it has come.
        deaths: how many workers died of it.
    """

    game: int
    call: str
    arguments: tuple[Any, ...]
    awaited: bool = True
    answer: Answer | None = None
    deaths: int = 0

    @property
    def starts_a_game(self) -> bool:
        return self.call in ("start", "restore")

    def result(self) -> Any:
        """What the call returned. Raises ValueError, BadGame, RuntimeError or EngineCrash where not."""
        assert self.answer is not None
        outcome, value = self.answer
        if outcome == "wrong":
            raise ValueError(value)
        if outcome == "bad game":
            raise BadGame(value)
        if outcome == "crash":
            raise EngineCrash(value)
        if outcome == "failed":
            raise RuntimeError(f"an ALFWorld engine failed:\n{value}")
        return value

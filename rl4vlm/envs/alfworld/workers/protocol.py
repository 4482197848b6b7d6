"""The requests to a worker process, and its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rl4vlm.envs.alfworld.games import BadGame

Outcome = Literal["done", "wrong", "bad game", "failed", "crash"]
"""How a request ended: done, an invalid request, a bad game, an error in the engine, or the death of two workers."""

Answer = tuple[Outcome, Any]
"""The outcome, with what the call returned or the message of the error."""


class EngineCrash(RuntimeError):
    """A request killed two workers in a row. (If it is a `start`, its game is a BadGame instead.)"""


@dataclass(eq=False)
class Request:
    """A call on a game's engine (`start`, `act`, `restore`, `close`) or without one (`solve`), and its answer.

    Attributes:
        game: number of the game in its pool.
        call: one of the names above.
        arguments: arguments of the call.
        awaited: whether a game waits for the answer. Nobody waits for the requests that the pool itself makes.
        answer: None until it has arrived.
        deaths: number of workers that died of this request.
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
        """What the call returned. Raises ValueError, BadGame, RuntimeError or EngineCrash if it failed."""
        assert self.answer is not None
        outcome, value = self.answer
        if outcome == "wrong":
            raise ValueError(value)
        if outcome == "bad game":
            raise BadGame(value)
        if outcome == "crash":
            raise EngineCrash(value)
        if outcome == "failed":
            raise RuntimeError(f"ALFWorld's engine failed in a worker process:\n{value}")
        return value

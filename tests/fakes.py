"""A small game for tests: climb from floor 0 to floor 2. Which actions are legal depends on the floor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rl4vlm.core.types import ExpertAction, PromptParts, Reply, Request, Style, View
from rl4vlm.interaction.play import Slot
from rl4vlm.tasks.base import Task

TOP = 2
LAST_STEP = 6


class ClimbTask(Task):
    name = "Climb"
    gym_id = "tests/Climb-v0"
    entry_point = "tests.fakes:ClimbEnv"
    prompt = PromptParts(
        role="You climb a tower.",
        observation="You stand on floor {floor}.",
        rules="Get to the top.",
        keys=("floor", "thoughts"),
        hints={"floor": "where you stand"},
    )
    fallback_penalty = -0.5
    perception_patterns: ClassVar[Mapping[str, re.Pattern[str]]] = {"floor": re.compile(r'"floor": (\d+)')}


class ClimbEnv:
    """The actions are `up` and `wait`, and above the ground floor `go down`.

    The reward is +1 on the top floor, where the episode ends. An episode is truncated after `LAST_STEP` steps. The
    start (floor 0 or 1) and a random `bonus` in each step's `info` are drawn from `np_random`.
    """

    def __init__(self, solvable: bool = True) -> None:
        self.solvable = solvable
        self.resets: list[int | None] = []
        self.closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None or not self.resets:
            self.np_random = np.random.default_rng(seed)
        self.resets.append(seed)
        self.floor, self.steps = int(self.np_random.integers(2)), 0
        return self._image(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        word = self.view().actions[action]
        self.floor += {"up": 1, "wait": 0, "go down": -1}[word]
        self.steps += 1
        top = self.floor == TOP
        info = {"bonus": float(self.np_random.random())}
        return self._image(), np.float64(top), top, not top and self.steps >= LAST_STEP, info

    def view(self) -> View:
        actions = ("up", "wait") if self.floor == 0 else ("up", "wait", "go down")
        return View(actions, {"floor": str(self.floor)})

    def expert_action(self) -> ExpertAction:
        return ExpertAction({"floor": self.floor, "thoughts": "The top is above."}, "up", self.solvable)

    def perception(self) -> Mapping[str, str]:
        return {"floor": str(self.floor)}

    def close(self) -> None:
        self.closed = True

    def _image(self) -> np.ndarray:
        return np.full((300, 300, 3), self.floor, dtype=np.uint8)


class FakePolicy:
    """A policy that gives the same reply to every request, or the reply that a function returns.

    It keeps the requests of each batch in `batches`.
    """

    def __init__(self, reply: Callable[[Request], str] | str) -> None:
        self.text = reply if callable(reply) else lambda request: reply
        self.batches: list[list[Request]] = []

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        self.batches.append(list(requests))
        return [Reply(self.text(request)) for request in requests]


class ClimbSlot(Slot):
    """A slot whose environment is known to be a `ClimbEnv`, so that tests may set its floor."""

    env: ClimbEnv


def climb_slot(seed: int = 1, style: Style = Style.COT, **options: Any) -> ClimbSlot:
    """A slot with a new `ClimbEnv`."""
    return ClimbSlot(ClimbEnv(), ClimbTask(), style, ClimbTask.prompt, seed, **options)

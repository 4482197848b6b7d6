"""NumberLine: move along a line of numbers to a target."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rl4vlm.core.types import ExpertAction, PromptParts
from rl4vlm.tasks.base import CardTask, Scene, Text, Transition
from rl4vlm.tasks.cards import check_option_names

MAX_POSITION = 5
MAX_STEPS = 2 * MAX_POSITION


@dataclass(frozen=True)
class NumberLineState:
    """The current and the target number (both 0..5), and the number of steps taken."""

    current: int
    target: int
    steps: int = 0


class NumberLine(CardTask[NumberLineState]):
    """Make the current number equal to the target.

    Actions: `-` and `+`; a move beyond 0 or 5 leaves the number unchanged. Reward: +1 at the target, -1 if the
    distance did not shrink, else 0. The episode terminates at the target and is truncated after 10 steps. Start: both
    numbers are uniform on 0..5; if they are equal, the target becomes (target + 1) mod 5.
    """

    name = "NumberLine"
    actions = ("-", "+")
    prompt = PromptParts(
        role="You play a game on a number line that goes from 0 to 5.",
        observation="The picture shows the target number and the current number.",
        rules=(
            "The action + adds one to the current number and - takes one away. "
            "Make the current number equal to the target number."
        ),
        keys=("current number", "target number", "thoughts"),
        hints={
            "current number": "the current number in the picture",
            "target number": "the target number in the picture",
            "thoughts": "how the two numbers compare",
        },
    )
    perception_patterns: ClassVar[Mapping[str, re.Pattern[str]]] = {
        name: re.compile(rf"""{name}\\?["']?\s*:\s*\\?["']?\s*(\d+)(?!\w|\.\d)""", re.IGNORECASE)
        for name in ("current number", "target number")
    }

    def start(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> NumberLineState:
        given = check_option_names(options, ("current", "target"))
        drawn = rng.integers(MAX_POSITION + 1, size=2)
        current = _position("current", given["current"]) if "current" in given else int(drawn[0])
        target = _position("target", given["target"]) if "target" in given else int(drawn[1])
        if current == target:
            if "current" in given and "target" in given:
                raise ValueError(f"options 'current' and 'target' are both {target}: the episode would be over")
            if "target" in given:  # a given target stays, so the current number moves in its place
                current = (current + 1) % MAX_POSITION
            else:
                target = (target + 1) % MAX_POSITION
        return NumberLineState(current, target)

    def transition(self, state: NumberLineState, action: str, rng: np.random.Generator) -> Transition[NumberLineState]:
        moved = min(max(state.current + (1 if action == "+" else -1), 0), MAX_POSITION)
        after = NumberLineState(moved, state.target, state.steps + 1)
        reached = moved == state.target
        nearer = abs(moved - state.target) < abs(state.current - state.target)
        reward = 1.0 if reached else 0.0 if nearer else -1.0
        return Transition(after, reward, terminated=reached, truncated=not reached and after.steps >= MAX_STEPS)

    def info(self, state: NumberLineState) -> dict[str, Any]:
        return {"Target": state.target, "Current": state.current}

    def fields(self, state: NumberLineState) -> dict[str, str]:
        return {}

    def scene(self, state: NumberLineState) -> Scene:
        return Scene(
            "#ffffff",
            (
                Text(30, 60, f"Target: {state.target}", 36, "#000000", bold=True),
                Text(30, 180, f"Current: {state.current}", 36, "#000000", bold=True),
            ),
        )

    def solve(self, state: NumberLineState) -> ExpertAction:
        current, target = state.current, state.target
        if current < target:
            thoughts, action = f"{current} is less than {target}, so the number must go up.", "+"
        else:
            thoughts, action = f"{current} is greater than {target}, so the number must go down.", "-"
        entries = {"current number": current, "target number": target, "thoughts": thoughts}
        in_time = abs(current - target) <= MAX_STEPS - state.steps
        return ExpertAction(entries, action, solvable=in_time)

    def perception(self, state: NumberLineState) -> dict[str, str]:
        return {"current number": str(state.current), "target number": str(state.target)}


def _position(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= MAX_POSITION:
        raise ValueError(f"option {name!r} must be a whole number from 0 to {MAX_POSITION}, not {value!r}")
    return int(value)

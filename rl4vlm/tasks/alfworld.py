"""ALFWorld: household tasks by text commands, in six types; not a set of pure rules but an engine of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from rl4vlm.core.types import PromptParts
from rl4vlm.tasks.base import Task


class ALFWorld(Task):
    """Find, treat and place the things that a task names, in a house that shows only what is at hand.

    Actions: the admissible commands of the situation. Reward of a step: 50 when the game is won, plus the share of the
    goal's conditions that hold; minus 1 where the reply held no admissible command, and a random one was played. The
    episode ends when the game is won and is cut off after 50 steps. Success: the game is won.

    `rl4vlm.envs.alfworld.env.ALFWorldEnv` is its environment.
    """

    name = "ALFWorld"
    gym_id = "alfworld/ALFWorld-v0"
    entry_point = "rl4vlm.envs.alfworld.env:ALFWorldEnv"
    fallback_penalty = -1.0
    groups = ("Pick", "Look", "Clean", "Heat", "Cool", "Pick2")
    overall = "alfworld_avg"
    prompt = PromptParts(
        role="You do household work in a house of the ALFWorld environment, by text commands.",
        observation=(
            "The picture shows what is at hand with the contents that are in view, below it a map of the room with "
            "your place in red, and what you hold.{scene}"
        ),
        rules=(
            "Go to a place to see what is there, and open it where it is shut. You can hold one thing at a time. "
            "Things are cleaned at a sinkbasin, heated with a microwave and cooled with a fridge.\n"
            "Your task: {goal}"
        ),
        keys=("thoughts",),
        hints={"thoughts": "where you are, what you hold, and what the task needs next"},
    )
    reading_patterns: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "place": re.compile(r'"thoughts":\s*"I am at (no receptacle|[a-z]+ \d+(?: and [a-z]+ \d+)*) and '),
        "in hand": re.compile(r'"thoughts":\s*"[^"]*? and hold ([a-z]+(?: \d+)?)\.'),
    }

    def succeeded(self, total_reward: float, info: Mapping[str, Any]) -> bool:
        return bool(info["won"])

    def group(self, info: Mapping[str, Any]) -> str | None:
        return str(info["task_type"])

    def data_source(self, info: Mapping[str, Any]) -> str | None:
        return str(info["source"])

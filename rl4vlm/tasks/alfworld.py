"""ALFWorld: household tasks by text commands, in six types; not a set of pure rules but an engine of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rl4vlm.core.types import PromptParts, View
from rl4vlm.tasks.base import Task

_NAMED = re.compile(r"\b[a-z]+(?= \d)")
_VERBS = ("clean", "cool", "go to", "heat", "move", "open", "take", "use")
_GOAL_WORDS = "put a some in on and it hot cool clean heat find two them look at under the examine with"
_NO_NAMES = frozenset(re.findall("[a-z]+", _GOAL_WORDS))
_WANTED = re.compile(r"\b(hot|heat|cool|clean|two|under|examine)\b")


class ALFWorld(Task):
    """Find, treat and place the things that a task names, in a house that shows only what is at hand.

    Actions: the admissible commands of the situation. Reward of a step: 50 when the game is won, plus the share of the
    goal's conditions that hold; minus 1 where the reply held no admissible command, and a random one was played. The
    episode ends when the game is won and is cut off after 50 steps. Success: the game is won.

    `rl4vlm.envs.alfworld.env.ALFWorldEnv` is its environment.
    """

    name = "ALFWorld"
    fallback_penalty = -1.0
    changing_actions = True
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
    perception_patterns: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "place": re.compile(r'"thoughts":\s*"I am at (no receptacle|[a-z]+ \d+(?: and [a-z]+ \d+)*) and '),
        "in hand": re.compile(r'"thoughts":\s*"[^"]*? and hold ([a-z]+(?: \d+)?)\.'),
    }

    # Names of things, and the word or words that a command begins with.
    kept_whole = re.compile(r'[a-z]+(?= \d)|"[a-z]+(?: to)?(?= )')

    def succeeded(self, total_reward: float, info: Mapping[str, Any]) -> bool:
        return bool(info["won"])

    def questions(self, view: View, rng: np.random.Generator) -> list[tuple[str, str]]:
        """What the task names; which commands begin with a word, or speak of a thing; which things are in view.

        The last where the scene is told in words: a prompt that leaves it to the picture does not answer it.
        """
        goal, scene = view.fields["goal"], view.fields["scene"]
        named = [word for word in re.findall(r"[a-z]+", goal) if word not in _NO_NAMES]
        wanted = _WANTED.search(goal)
        names = sorted({*named, *_NAMED.findall(" ".join(view.actions))})
        verb, name = _VERBS[int(rng.integers(len(_VERBS)))], names[int(rng.integers(len(names)))]
        asked = [
            ("What does the task name?", ", ".join(named)),
            ("How does the task want it?", wanted[1] if wanted else "as it is"),
            (f"Which commands begin with {verb}?", _listed(_beginning(view.actions, verb))),
            (f"Which commands speak of {name}?", _listed(_speaking(view.actions, [name]))),
            ("Which commands speak of what the task names?", _listed(_speaking(view.actions, named))),
        ]
        if scene:
            in_view = re.findall(r"\ban? ([a-z]+ \d+)", scene.partition("\nThe last")[0])
            asked.append(("What is in view?", ", ".join(in_view) or "nothing"))
        return [asked[int(index)] for index in rng.permutation(len(asked))[:3]]

    def group(self, info: Mapping[str, Any]) -> str | None:
        return str(info["task_type"])

    def data_source(self, info: Mapping[str, Any]) -> str | None:
        """Where the game came from, and that the benchmark's was shown in drawn pictures: generated ones always are."""
        drawn = info["source"] == "official" and info["pictures"] != "frames"
        return f"{info['source']}, drawn pictures" if drawn else str(info["source"])


def _beginning(actions: Sequence[str], verb: str) -> list[str]:
    return [action for action in actions if action.startswith(f"{verb} ")]


def _speaking(actions: Sequence[str], names: Sequence[str]) -> list[str]:
    return [action for action in actions if set(names) & set(action.split())]


def _listed(actions: Sequence[str]) -> str:
    return ", ".join(f'"{action}"' for action in actions) or "none"

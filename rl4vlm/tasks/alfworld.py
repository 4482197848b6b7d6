"""ALFWorld: household tasks of six types, played by text commands. Its rules are in ALFWorld's own engine."""

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
_PUT = re.compile(r"(?:move|put) (.+) (?:to|in/on) (.+)")
_WANTED = re.compile(r"\b(hot|heat|cool|clean|two|under|examine)\b")


class ALFWorld(Task):
    """Find, treat and place the objects that the goal names, in a house of which only the nearby part is visible.

    Actions: the admissible commands, which change with the situation. Reward of a step: 50 if the game is won, plus the
    fraction of the goal's conditions that hold, minus 1 if the reply held no admissible command (a random one is played
    then). The episode terminates when the game is won and is truncated after 50 steps. Success: the game is won.
    """

    name = "ALFWorld"
    fallback_penalty = -1.0
    changing_actions = True
    groups = ("Pick", "Look", "Clean", "Heat", "Cool", "Pick2")
    overall = "alfworld_avg"
    training_env: ClassVar[Mapping[str, Any]] = {"split": "train"}
    held_out_env: ClassVar[Mapping[str, Any]] = {"split": "valid_seen"}
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
        "place": re.compile(r"\bI am at (no receptacle|[a-z]+ \d+(?: and [a-z]+ \d+)*) and ", re.IGNORECASE),
        "in hand": re.compile(r'"thoughts":\s*"[^"]*? and hold (nothing|[a-z]+ \d+)\.', re.IGNORECASE),
    }

    # The names of objects, and the verb of a command.
    kept_whole = re.compile(r'[a-z]+(?= \d)|"[a-z]+(?: to)?(?= )')

    def succeeded(self, total_reward: float, info: Mapping[str, Any]) -> bool:
        return bool(info["won"])

    def questions(self, view: View, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Three questions about the objects that the goal names, the admissible commands and the objects in view."""
        goal, scene = view.fields["goal"], view.fields["scene"]
        named = [word for word in re.findall(r"[a-z]+", goal) if word not in _NO_NAMES]
        wanted = _WANTED.search(goal)
        names = sorted({*named, *_NAMED.findall(" ".join(view.actions))})
        verb, name = _VERBS[int(rng.integers(len(_VERBS)))], names[int(rng.integers(len(names)))]
        asked = [
            ("What does the task name?", ", ".join(named)),
            ("How does the task want it?", wanted[1] if wanted else "as it is"),
            (f"Which commands begin with {verb}?", _listed(_with_verb(view.actions, verb))),
            (f"Which commands speak of {name}?", _listed(_mentioning(view.actions, [name]))),
            ("Which commands speak of what the task names?", _listed(_mentioning(view.actions, named))),
        ]
        if scene:  # without the scene in words, the prompt does not say what is in view
            in_view = re.findall(r"\ban? ([a-z]+ \d+)", scene.partition("\nThe last")[0])
            asked.append(("What is in view?", ", ".join(in_view) or "nothing"))
        return [asked[int(index)] for index in rng.permutation(len(asked))[:3]]

    def group(self, info: Mapping[str, Any]) -> str | None:
        return str(info["task_type"])

    def data_source(self, info: Mapping[str, Any]) -> str | None:
        """Where the game comes from and, for a game of the benchmark, whether its images were drawn by this project."""
        # Generated games are always drawn, so only official ones need the note.
        drawn = info["source"] == "official" and info["pictures"] != "frames"
        return f"{info['source']}, drawn pictures" if drawn else str(info["source"])


def aliases_of(commands: Sequence[str]) -> dict[str, str]:
    """Other texts for commands that put a thing somewhere: today's grammar says `move`, the benchmark's `put in/on`."""
    puts = [(command, _PUT.fullmatch(command)) for command in commands]
    forms = ("move {} to {}", "put {} in/on {}", "put {} in {}", "put {} on {}")
    return {form.format(*put.groups()): command for command, put in puts if put for form in forms}


def _with_verb(actions: Sequence[str], verb: str) -> list[str]:
    return [action for action in actions if action.startswith(f"{verb} ")]


def _mentioning(actions: Sequence[str], names: Sequence[str]) -> list[str]:
    return [action for action in actions if set(names) & set(action.split())]


def _listed(actions: Sequence[str]) -> str:
    return ", ".join(f'"{action}"' for action in actions) or "none"

"""What a task is: the rules of a game as pure functions, its words, its prompt, its solver and what to draw.

A card game subclasses `CardTask` and is one file in this folder; the gymnasium adapter, the pictures, the prompt and
the play loop are shared. A task that is not a set of pure rules (ALFWorld) subclasses `Task` and brings its own
environment.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from rl4vlm.core.types import ExpertAction, PromptParts, View

State = TypeVar("State")
RULES = ("strict", "upstream")


@dataclass(frozen=True)
class Text:
    """A line of text in a scene: top-left corner (x, y) in pixels, font size in pixels, colour as `#rrggbb`."""

    x: int
    y: int
    text: str
    size: int
    colour: str
    bold: bool = False


@dataclass(frozen=True)
class CardImage:
    """A playing card in a scene: `card` is suit letter + rank (`HK`, `DT`) or `back`; corner and size in pixels."""

    x: int
    y: int
    width: int
    height: int
    card: str


@dataclass(frozen=True)
class Scene:
    """What a picture of 300 by 300 pixels shows: a background colour and the items drawn on it, in order."""

    background: str
    items: tuple[Text | CardImage, ...]


@dataclass(frozen=True)
class Transition(Generic[State]):
    """What an action led to: the next state, its reward, and whether the episode ended or was cut off."""

    state: State
    reward: float
    terminated: bool
    truncated: bool


class Task(ABC):
    """A task as the rest of the package sees it.

    `reading_patterns` maps a field that must be read off the picture to the regular expression whose first group finds
    it in a reply; `reading_accuracy` compares the group, white space and case apart, with the environment's
    `reading()`.
    `fallback_penalty` is added to the reward of a step whose reply held no legal action (ALFWorld: -1).
    `kept_whole` finds, in the task's prompts and replies, the words that the embedded model's tokenizer keeps as tokens
    of their own, such as the names of things; without it, such words may be merged with their surroundings.
    `changing_actions`: the legal actions are made of what a situation holds, rather than taken from one list.
    `groups` are the kinds of episodes that results are also counted by, in the order of the tables; `overall` is what
    tables call the rate over all of them.
    """

    name: ClassVar[str]
    gym_id: ClassVar[str]
    entry_point: ClassVar[str]
    prompt: ClassVar[PromptParts]
    fallback_penalty: ClassVar[float] = 0.0
    changing_actions: ClassVar[bool] = False
    groups: ClassVar[tuple[str, ...]] = ()
    overall: ClassVar[str | None] = None
    perception_patterns: ClassVar[Mapping[str, re.Pattern[str]]] = {}
    kept_whole: ClassVar[re.Pattern[str] | None] = None

    def succeeded(self, total_reward: float, info: Mapping[str, Any]) -> bool:
        """Whether a finished episode counts as won, from its undiscounted return and last `info`."""
        return total_reward > 0

    def group(self, info: Mapping[str, Any]) -> str | None:
        """Which of `groups` an episode belongs to, from its last `info`; None where there are none."""
        return None

    def questions(self, view: View, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Questions on what the prompt's words say, with their answers: what the embedded model learns to read by.

        Some that `rng` chooses; none where the words say little. They ask for nothing but what can be found in the
        prompt: no advice, no rule, no reply.
        """
        return []

    def data_source(self, info: Mapping[str, Any]) -> str | None:
        """What an episode's game was made by or taken from, where games are data and not rules.

        An adjective to "games"; after a comma, what else must be said where results on them are shown.
        """
        return None


class CardTask(Task, Generic[State]):
    """A game whose rules are pure functions of (state, action, rng); the instance holds options only (`rules`)."""

    entry_point = "rl4vlm.envs.card_env:CardEnv"
    actions: ClassVar[tuple[str, ...]]

    def __init__(self, rules: str = "strict") -> None:
        """`rules` says which formulas are paid: `"strict"` or `"upstream"`; a game without formulas has one set."""
        if rules not in RULES:
            raise ValueError(f"rules must be one of {', '.join(map(repr, RULES))}, not {rules!r}")
        self.rules = rules

    @abstractmethod
    def start(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> State:
        """Draw a start state; `options` fix parts of it. Raises ValueError naming an option that cannot be."""

    @abstractmethod
    def transition(self, state: State, action: str, rng: np.random.Generator) -> Transition[State]:
        """Play one action word."""

    @abstractmethod
    def info(self, state: State) -> dict[str, Any]:
        """The public code's `info` entries for a state."""

    @abstractmethod
    def fields(self, state: State) -> dict[str, str]:
        """The values that the prompt's texts are filled with."""

    @abstractmethod
    def scene(self, state: State) -> Scene:
        """What to draw."""

    @abstractmethod
    def solve(self, state: State) -> ExpertAction:
        """The best action from here, with the reply entries that explain it."""

    @abstractmethod
    def perception(self, state: State) -> dict[str, str]:
        """The text of each field that a player must read off the picture."""

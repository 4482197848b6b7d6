"""What a task is: its rules as pure functions, its action words, its prompt, its solver and what to draw.

A card game is one file in this folder with a subclass of `CardTask`. All card games share the Gymnasium environment,
the drawing code, the prompt template and the play loop. A task whose rules are no pure functions (ALFWorld) subclasses
`Task` and has an environment of its own.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from rl4vlm.core.nearest import did_you_mean
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
    """A playing card in a scene: `card` is suit letter + rank (`HK`, `DT`) or `back`. Corner and size are in pixels."""

    x: int
    y: int
    width: int
    height: int
    card: str


@dataclass(frozen=True)
class Scene:
    """What an image of 300 by 300 pixels shows: a background colour, and the items drawn on it in order."""

    background: str
    items: tuple[Text | CardImage, ...]


@dataclass(frozen=True)
class Transition(Generic[State]):
    """The result of an action: the next state, the reward, and whether the episode was terminated or truncated."""

    state: State
    reward: float
    terminated: bool
    truncated: bool


class Task(ABC):
    """A task as the rest of the package sees it.

    Results are counted by `groups`, and demonstrations, prompts and tables are made from the other attributes.
    """

    name: ClassVar[str]

    gym_id: ClassVar[str]
    """The environment's id in Gymnasium. Set only by tasks of other packages; this package's own are in `TASKS`."""

    entry_point: ClassVar[str]
    """The environment's class as "module:object". Set only by tasks of other packages that are no card games."""

    prompt: ClassVar[PromptParts]

    fallback_penalty: ClassVar[float] = 0.0
    """Added to the reward of a step whose reply held no legal action (ALFWorld: -1)."""

    changing_actions: ClassVar[bool] = False
    """Whether the legal actions depend on the situation, so that they are not an index into one fixed list."""

    groups: ClassVar[tuple[str, ...]] = ()
    """The kinds of episodes that results are also counted by, in the order of the tables."""

    overall: ClassVar[str | None] = None
    """What tables call the rate over all groups."""

    training_env: ClassVar[Mapping[str, Any]] = {}
    """Options of the environment with which training plays, also by default, for tasks whose games are data."""

    held_out_env: ClassVar[Mapping[str, Any]] = {}
    """Options of the environment with which `rl4vlm evaluate` plays games that no training plays, for tasks whose games
    are data. Without them, the evaluation's seeds are enough."""

    perception_patterns: ClassVar[Mapping[str, re.Pattern[str]]] = {}
    """For each field that must be read off the image, the pattern whose first group finds it in a reply. Perception
    accuracy compares that group with the environment's `perception()`, ignoring case, white space and quotes. Other
    words are no wrong value, so the pattern must match only values of the field's own form."""

    kept_whole: ClassVar[re.Pattern[str] | None] = None
    """Finds the words of prompts and replies that the embedded model's tokenizer keeps as single tokens, such as names
    of objects. Without it, such words may be merged with their surroundings."""

    def succeeded(self, total_reward: float, info: Mapping[str, Any]) -> bool:
        """Whether a finished episode counts as won, from its undiscounted return and last `info`."""
        return total_reward > 0

    def group(self, info: Mapping[str, Any]) -> str | None:
        """The member of `groups` that an episode belongs to, from its last `info`. None if the task has no groups."""
        return None

    def questions(self, view: View, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Questions about the text of the prompt, with their answers; the embedded model is pre-trained on them.

        `rng` chooses which questions are asked. The answers can be found in the prompt: no question gives away which
        action is good, how the game works or how to reply. Empty for tasks whose prompts say little.
        """
        return []

    def data_source(self, info: Mapping[str, Any]) -> str | None:
        """Where an episode's game comes from, for tasks whose games are data. None for the others.

        The text is put before the word "games". What follows a comma in it is shown beside results on these games.
        """
        return None


class CardTask(Task, Generic[State]):
    """A game whose rules are pure functions of (state, action, rng). The instance holds only options (`rules`)."""

    actions: ClassVar[tuple[str, ...]]

    def __init__(self, rules: str = "strict") -> None:
        """`rules` says which formulas win: `"strict"` or `"upstream"`. Games without formulas ignore it."""
        if rules not in RULES:
            raise ValueError(f"rules cannot be {rules!r}; {did_you_mean(rules, RULES)}")
        self.rules = rules

    @abstractmethod
    def start(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> State:
        """Draw a start state. `options` fix parts of it. Raises ValueError that names an invalid option."""

    @abstractmethod
    def transition(self, state: State, action: str, rng: np.random.Generator) -> Transition[State]:
        """Apply one action word. Random events are drawn from `rng` alone."""

    @abstractmethod
    def info(self, state: State) -> dict[str, Any]:
        """The public code's `info` entries for a state."""

    @abstractmethod
    def fields(self, state: State) -> dict[str, str]:
        """The values of the `{name}` fields in the prompt."""

    @abstractmethod
    def scene(self, state: State) -> Scene:
        """What to draw."""

    @abstractmethod
    def solve(self, state: State) -> ExpertAction:
        """The best action in this state, with the entries of the reply that explain it."""

    @abstractmethod
    def perception(self, state: State) -> dict[str, str]:
        """The text of each field that a player must read off the image (the keys of `perception_patterns`)."""

"""What EZPoints and Points24 share: a formula that is written item by item from the values of the cards."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from rl4vlm.core.types import ExpertAction
from rl4vlm.tasks.arithmetic import Token, Tokens, exact_value
from rl4vlm.tasks.base import CardImage, CardTask, Scene, Text, Transition
from rl4vlm.tasks.cards import SAID_RANKS, TABLE, card_value, check_cards, check_option_names, shown_ranks
from rl4vlm.tasks.python_value import python_value

BLANK = " "
WHITE = "#ffffff"


@dataclass(frozen=True)
class FormulaState:
    """The cards, and the items of the formula so far: ints, operators, and a blank for each illegal number."""

    cards: tuple[str, ...]
    formula: tuple[Token, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(card_value(card) for card in self.cards)

    @property
    def left(self) -> tuple[int, ...]:
        """The values of the cards not yet used, in the order of `cards`."""
        left = list(self.numbers)
        for item in self.formula:
            if isinstance(item, int):
                left.remove(item)
        return tuple(left)

    @property
    def tokens(self) -> Tokens:
        """The formula without its blanks."""
        return tuple(item for item in self.formula if item != BLANK)

    @property
    def text(self) -> str:
        return " ".join(map(str, self.formula))


class FormulaGame(CardTask[FormulaState]):
    """Write a formula that makes `target` of all cards. Subclasses define the cards, the operators and the length.

    Reward (as in the public code): +10 for `=` if the formula makes the target and uses every card, -1 for any other
    `=`; -1 for a number that no unused card has, and a blank is appended in its place; 0 otherwise. The episode
    terminates at `=`. If the formula already has more than `max_items` items, the action is not applied: the reward is
    -1 and the episode is truncated.

    With `rules="strict"`, a well-formed formula wins by its value in exact arithmetic, blanks left out. With
    `rules="upstream"`, it wins by Python's `eval` of the items joined together, as in the public code.
    """

    target: ClassVar[int]
    card_count: ClassVar[int]
    max_items: ClassVar[int]
    perception_patterns: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "cards": re.compile(rf"""cards\\?["']?\s*:\s*["']?\[\s*({SAID_RANKS})\s*\]""", re.IGNORECASE),
    }

    @abstractmethod
    def deal(self, rng: np.random.Generator) -> tuple[str, ...]:
        """Draw the cards of an episode."""

    @abstractmethod
    def completion(self, state: FormulaState, budget: int) -> Tokens | None:
        """At most `budget` further tokens that make the target, or None if there are none."""

    def start(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> FormulaState:
        given = check_option_names(options, ("cards",))
        if "cards" in given:
            return FormulaState(check_cards("cards", given["cards"], self.card_count, self.card_count))
        return FormulaState(self.deal(rng))

    def transition(self, state: FormulaState, action: str, rng: np.random.Generator) -> Transition[FormulaState]:
        if len(state.formula) > self.max_items:
            return Transition(state, -1.0, terminated=False, truncated=True)
        if action == "=":
            return Transition(state, 10.0 if self.pays(state) else -1.0, terminated=True, truncated=False)
        if not action.isdigit():
            return Transition(_with_item(state, action), 0.0, terminated=False, truncated=False)
        if int(action) in state.left:
            return Transition(_with_item(state, int(action)), 0.0, terminated=False, truncated=False)
        return Transition(_with_item(state, BLANK), -1.0, terminated=False, truncated=False)

    def pays(self, state: FormulaState) -> bool:
        """Whether `=` would win in this state."""
        if state.left:
            return False
        if self.rules == "strict":
            return exact_value(state.tokens) == self.target
        return python_value("".join(map(str, state.formula))) == self.target

    def info(self, state: FormulaState) -> dict[str, Any]:
        return {"Cards": list(state.cards), "Numbers": list(state.numbers), "Formula": list(state.formula)}

    def fields(self, state: FormulaState) -> dict[str, str]:
        return {"formula": state.text}

    def perception(self, state: FormulaState) -> dict[str, str]:
        return {"cards": ", ".join(shown_ranks(state.cards))}

    def solve(self, state: FormulaState) -> ExpertAction:
        rest = self.completion(state, self.max_items - len(state.formula))
        if rest is None:
            thoughts, action = f"{self.target} cannot be reached, so the formula ends here.", "="
        else:
            action = str(rest[0]) if rest else "="
            whole = " ".join(map(str, (*state.tokens, *rest)))
            thoughts = f"{whole} = {self.target}, so the next item is {action}."
        entries = {"cards": shown_ranks(state.cards), "current formula": state.text, "thoughts": thoughts}
        return ExpertAction(entries, action, solvable=rest is not None)

    def scene(self, state: FormulaState) -> Scene:
        width = int(300 / self.card_count * 0.9)
        height = int(width * 7 / 5)
        top = (300 - height) // 2
        cards = tuple(
            CardImage(5 + int(1.1 * i * width), top, width, height, card) for i, card in enumerate(state.cards)
        )
        return Scene(TABLE, cards + self.formula_lines(state))

    @abstractmethod
    def formula_lines(self, state: FormulaState) -> tuple[Text, ...]:
        """The lines of text that show the formula."""


def _with_item(state: FormulaState, item: Token) -> FormulaState:
    return replace(state, formula=(*state.formula, item))

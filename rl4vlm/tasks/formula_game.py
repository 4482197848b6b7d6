"""What EZPoints and Points24 share: a formula written item by item from the values of the cards on the table."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from rl4vlm.core.types import ExpertAction
from rl4vlm.tasks.arithmetic import Token, Tokens, exact_value, python_value
from rl4vlm.tasks.base import CardImage, CardTask, Scene, Text, Transition
from rl4vlm.tasks.cards import card_value, check_cards, check_option_names, shown_ranks

BLANK = " "
TABLE = "#35654d"
WHITE = "#ffffff"


@dataclass(frozen=True)
class FormulaState:
    """The cards on the table, and the formula's items so far: ints, operators, and a blank for each refused number."""

    cards: tuple[str, ...]
    formula: tuple[Token, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(card_value(card) for card in self.cards)

    @property
    def left(self) -> tuple[int, ...]:
        """The values of the cards not yet used, in the order they lie on the table."""
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
    """A game of writing a formula that makes `target` of all cards; subclasses say which cards, signs and length.

    Reward (paper, public code): +10 at `=` when the formula makes the target with every card used, -1 at any other `=`;
    -1 for a number not among the cards not yet used, in whose place a blank is appended; 0 else. The episode ends at
    `=`. A step that finds more than `max_items` items is not applied: -1 and cut off.

    `rules="strict"` pays well-formed formulas in exact arithmetic, blanks left out. `rules="upstream"` pays what
    Python's `eval` of the items written together gives, as the public code does.
    """

    target: ClassVar[int]
    card_count: ClassVar[int]
    max_items: ClassVar[int]
    perception_patterns: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "cards": re.compile(r'"cards":\s*\[([^\]]*)\]'),
    }

    @abstractmethod
    def deal(self, rng: np.random.Generator) -> tuple[str, ...]:
        """Draw the cards of an episode."""

    @abstractmethod
    def completion(self, state: FormulaState, budget: int) -> Tokens | None:
        """At most `budget` further tokens that make the target, or None where there are none."""

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
        """Whether `=` now would win."""
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
        """Where the formula is written."""


def _with_item(state: FormulaState, item: Token) -> FormulaState:
    return replace(state, formula=(*state.formula, item))

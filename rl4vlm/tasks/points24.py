"""Points24: write a formula of four cards that equals 24."""

from __future__ import annotations

import numpy as np

from rl4vlm.core.types import PromptParts
from rl4vlm.tasks.arithmetic import OPERATORS, Tokens, complete, completions
from rl4vlm.tasks.base import Text
from rl4vlm.tasks.cards import card_name
from rl4vlm.tasks.formula_game import WHITE, FormulaGame, FormulaState
from rl4vlm.tasks.python_value import python_value


class Points24(FormulaGame):
    """Write a formula of four cards that equals 24, item by item.

    Actions: the numbers 1 to 10, `+ - * / ( )` and `=`. For rewards and the end of an episode see `FormulaGame`;
    `max_items` is 20. Deal: four independent ranks, uniform on 1..13; J, Q and K count 10. 20,876 of the 28,561 deals
    can be won.
    """

    name = "Points24"
    actions = (*map(str, range(1, 11)), *OPERATORS, "(", ")", "=")
    target = 24
    card_count = 4
    max_items = 20
    prompt = PromptParts(
        role="You play a card game in which you write a formula that equals 24.",
        observation='The picture shows four cards and the formula so far. The formula so far is "{formula}".',
        rules=(
            "Each action adds one item to the formula. Use the number of each card exactly once; A counts 1, and "
            "J, Q and K count 10. Choose = when the formula is complete and equals 24."
        ),
        keys=("cards", "current formula", "thoughts"),
        hints={
            "cards": "the ranks of the four cards",
            "current formula": "the formula so far",
            "thoughts": "a formula that equals 24 and its next item",
        },
    )

    def deal(self, rng: np.random.Generator) -> tuple[str, ...]:
        return tuple(card_name(int(rank), rng) for rank in rng.integers(1, 14, size=self.card_count))

    def completion(self, state: FormulaState, budget: int) -> Tokens | None:
        shortest = complete(state.tokens, tuple(sorted(state.left)), self.target, budget)
        if shortest is None or self.rules == "strict" or self._python_agrees(state, shortest):
            return shortest
        # The exact solution fails in floating point, as 8 / (3 - 8 / 3) does. Look for one that does not.
        every = completions(state.tokens, state.left, self.target, every=True)
        floating = [rest for rest in every if len(rest) <= budget and self._python_agrees(state, rest)]
        return min(floating, key=len, default=None)

    def _python_agrees(self, state: FormulaState, rest: Tokens) -> bool:
        """Whether Python's `eval` of the completed formula equals the target, as `rules="upstream"` demands."""
        return python_value("".join(map(str, (*state.formula, *rest)))) == self.target

    def formula_lines(self, state: FormulaState) -> tuple[Text, ...]:
        return (Text(10, 210, "Formula:", 16, WHITE), Text(10, 240, state.text, 16, WHITE))

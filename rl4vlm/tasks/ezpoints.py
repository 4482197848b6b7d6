"""EZPoints: write a formula of two cards that equals 12."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from rl4vlm.core.types import PromptParts
from rl4vlm.tasks.arithmetic import Token, Tokens, exact_value, read_all
from rl4vlm.tasks.base import Text
from rl4vlm.tasks.cards import card_name
from rl4vlm.tasks.formula_game import WHITE, FormulaGame, FormulaState

TARGET = 12


class EZPoints(FormulaGame):
    """Write a formula of two cards that equals 12, item by item.

    Actions: the numbers 1 to 10, `+`, `*` and `=`. For rewards and the end of an episode see `FormulaGame`;
    `max_items` is 5. Deal: the rank of the first card is uniform on 2..13, its value x at most 10. The second card has
    rank 12 - x or, with probability 1/2 if x is 2, 3, 4 or 6, rank 12 / x. The two cards are swapped with probability
    1/2. Every deal can be won.
    """

    name = "EZPoints"
    actions = (*map(str, range(1, 11)), "+", "*", "=")
    target = TARGET
    card_count = 2
    max_items = 5
    prompt = PromptParts(
        role="You play a card game in which you write a formula that equals 12.",
        observation='The picture shows two cards and the formula so far. The formula so far is "{formula}".',
        rules=(
            "Each action adds one item to the formula. Use the number of each card exactly once; A counts 1, and "
            "J, Q and K count 10. Choose = when the formula is complete and equals 12."
        ),
        keys=("cards", "current formula", "thoughts"),
        hints={
            "cards": "the ranks of the two cards",
            "current formula": "the formula so far",
            "thoughts": "a formula that equals 12 and its next item",
        },
    )

    def deal(self, rng: np.random.Generator) -> tuple[str, ...]:
        rank = int(rng.integers(2, 14))
        value = min(rank, 10)
        divides = value in (1, 2, 3, 4, 6) and rng.random() < 0.5
        partner = TARGET // value if divides else TARGET - value
        cards = (card_name(rank, rng), card_name(partner, rng))
        return cards[::-1] if rng.random() < 0.5 else cards

    def completion(self, state: FormulaState, budget: int) -> Tokens | None:
        return _complete(state.tokens, state.left, budget)

    def formula_lines(self, state: FormulaState) -> tuple[Text, ...]:
        return (Text(10, 258, f"Formula: {state.text}", 20, WHITE),)


@lru_cache(maxsize=10_000)
def _complete(tokens: Tokens, left: tuple[int, ...], budget: int) -> Tokens | None:
    """The shortest continuation that makes 12, or None. Searches breadth first: there are at most 4^5 continuations."""
    if budget < 0:
        return None
    shortest: list[tuple[Tokens, tuple[int, ...]]] = [((), left)]
    for _ in range(budget + 1):
        for added, rest in shortest:
            if not rest and exact_value(tokens + added) == TARGET:
                return added
        shortest = [longer for begun in shortest for longer in _one_longer(tokens, *begun)]
    return None


def _one_longer(tokens: Tokens, added: Tokens, left: tuple[int, ...]) -> list[tuple[Tokens, tuple[int, ...]]]:
    choices: list[tuple[Token, tuple[int, ...]]] = [(left[i], left[:i] + left[i + 1 :]) for i in range(len(left))]
    choices += [("+", left), ("*", left)]
    return [((*added, token), rest) for token, rest in choices if read_all((*tokens, *added, token)) is not None]

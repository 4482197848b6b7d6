"""Blackjack against a dealer, with an infinite deck."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from rl4vlm.core.types import ExpertAction, PromptParts
from rl4vlm.tasks.base import CardImage, CardTask, Scene, Text, Transition
from rl4vlm.tasks.cards import (
    BACK,
    SAID_RANK,
    SAID_RANKS,
    SUITS,
    TABLE,
    card_value,
    check_cards,
    check_option_names,
    shown_rank,
    shown_ranks,
)

LIMIT = 21
DEALER_STANDS = 17
# The probability of each value: T, J, Q and K all count 10.
CHANCES = {value: (4 if value == 10 else 1) / 13 for value in range(1, 11)}


@dataclass(frozen=True)
class BlackjackState:
    """Both hands. The dealer's first card is face up."""

    player: tuple[str, ...]
    dealer: tuple[str, ...]


class Total(NamedTuple):
    """The total of a hand, and whether it is soft: an ace in it counts 11."""

    points: int
    soft: bool

    def plus(self, value: int) -> Total:
        """The total with one more card of this value (1 for an ace)."""
        hard = self.points - (10 if self.soft else 0) + value
        soft = (self.soft or value == 1) and hard + 10 <= LIMIT
        return Total(hard + (10 if soft else 0), soft)


EMPTY_HAND = Total(0, False)


def total(cards: Iterable[str]) -> Total:
    """The total of a hand."""
    counted = EMPTY_HAND
    for card in cards:
        counted = counted.plus(card_value(card))
    return counted


def draw(rng: np.random.Generator) -> str:
    """A card from an infinite deck."""
    value = min(int(rng.integers(1, 14)), 10)
    # As in the public code, no T is ever shown: a card of value 10 is J, Q or K.
    face = "JQK"[rng.integers(3)] if value == 10 else "A23456789"[value - 1]
    return SUITS[rng.integers(len(SUITS))] + face


class Blackjack(CardTask[BlackjackState]):
    """Come nearer to 21 than the dealer without going over.

    Actions: `stand` and `hit`. Reward: +1 for a win, 0 for a draw, -1 for a loss; 0 for a hit that does not go over 21.
    The episode ends when the player goes over 21, or at `stand`, after which the dealer draws up to 17 or more (soft 17
    included). Deal: two cards each from an infinite deck, one of the dealer's face up. An ace counts 11 if that keeps
    the hand within 21, else 1. A natural earns no more than any other 21.
    """

    name = "Blackjack"
    actions = ("stand", "hit")
    prompt = PromptParts(
        role="You play blackjack against a dealer.",
        observation="The picture shows one card of the dealer in the upper row and your cards in the lower row.",
        rules=(
            "Come nearer to 21 than the dealer, but not over 21. J, Q and K count 10, and A counts 1 or 11. "
            "The action hit draws a card. The action stand ends your turn; the dealer then draws up to 17 or more."
        ),
        keys=("thoughts",),
        hints={"thoughts": "the dealer's card, your cards and their total, and what is better"},
    )
    perception_patterns: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "dealer card": re.compile(rf"dealer shows (?:(?:an?|the)\s+)?({SAID_RANK})(?!\w)", re.IGNORECASE),
        "player cards": re.compile(rf"""my cards are ({SAID_RANKS})\s*[:.;"'(]""", re.IGNORECASE),
    }

    def start(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> BlackjackState:
        given = check_option_names(options, ("player", "dealer"))
        player: tuple[str, ...] = (draw(rng), draw(rng))
        dealer: tuple[str, ...] = (draw(rng), draw(rng))
        if "player" in given:
            player = check_cards("player", given["player"], at_least=2)
        if "dealer" in given:
            dealer = check_cards("dealer", given["dealer"], at_least=2, at_most=2)
        if total(player).points > LIMIT:
            raise ValueError(
                f"option 'player' counts {total(player).points}, more than {LIMIT}: the episode would be over"
            )
        return BlackjackState(player, dealer)

    def transition(self, state: BlackjackState, action: str, rng: np.random.Generator) -> Transition[BlackjackState]:
        if action == "hit":
            after = replace(state, player=(*state.player, draw(rng)))
            bust = total(after.player).points > LIMIT
            return Transition(after, -1.0 if bust else 0.0, terminated=bust, truncated=False)
        dealer = state.dealer
        while total(dealer).points < DEALER_STANDS:
            dealer = (*dealer, draw(rng))
        reward = outcome(total(state.player).points, total(dealer).points)
        return Transition(replace(state, dealer=dealer), reward, terminated=True, truncated=False)

    def info(self, state: BlackjackState) -> dict[str, Any]:
        return {"Player Card": _described(state.player), "Dealer Card": _described(state.dealer)}

    def fields(self, state: BlackjackState) -> dict[str, str]:
        return {}

    def scene(self, state: BlackjackState) -> Scene:
        white = "#ffffff"
        # As in the public code, the fifth card of a row lies beyond the right edge of the image.
        player = tuple(
            CardImage(5 + 74 * (i % 5), 150 + 102 * (i // 5), 70, 98, card) for i, card in enumerate(state.player)
        )
        dealer = (CardImage(5, 25, 70, 98, state.dealer[0]), CardImage(78, 25, 70, 98, BACK))
        titles = (Text(5, 5, "Dealer", 16, white, bold=True), Text(5, 130, "Player", 16, white, bold=True))
        return Scene(TABLE, titles + dealer + player)

    def solve(self, state: BlackjackState) -> ExpertAction:
        hand, open_card = total(state.player), card_value(state.dealer[0])
        hits = hand.points <= LIMIT and hit_value(hand, open_card) > stand_value(hand.points, open_card)
        running, counted = [], EMPTY_HAND
        for card in state.player:
            counted = counted.plus(card_value(card))
            running.append(str(counted.points))
        thoughts = (
            f"The dealer shows {shown_rank(state.dealer[0])}. My cards are {', '.join(shown_ranks(state.player))}: "
            f"{', '.join(running)} in all, {'soft' if hand.soft else 'hard'}. "
            f"{'Hitting' if hits else 'Standing'} is better."
        )
        return ExpertAction({"thoughts": thoughts}, "hit" if hits else "stand")

    def perception(self, state: BlackjackState) -> dict[str, str]:
        return {"dealer card": shown_rank(state.dealer[0]), "player cards": ", ".join(shown_ranks(state.player))}


def outcome(player: int, dealer: int) -> float:
    """The reward for the final totals, if the player's is within 21."""
    if dealer > LIMIT or player > dealer:
        return 1.0
    return 0.0 if player == dealer else -1.0


def _described(cards: Iterable[str]) -> list[tuple[int, str, str]]:
    """Cards as in the `info` of the public code: (value, face, suit)."""
    return [(card_value(card), card[1], card[0]) for card in cards]


# --- optimal play, by dynamic programming over the infinite deck -----------------------------------------------------


@cache
def dealer_ends(hand: Total) -> dict[int, float]:
    """The probability of each final total of the dealer, from a hand. 22 stands for every total over 21."""
    if hand.points > LIMIT:
        return {LIMIT + 1: 1.0}
    if hand.points >= DEALER_STANDS:
        return {hand.points: 1.0}
    ends: dict[int, float] = {}
    for value, chance in CHANCES.items():
        for points, share in dealer_ends(hand.plus(value)).items():
            ends[points] = ends.get(points, 0.0) + chance * share
    return ends


@cache
def stand_value(points: int, open_card: int) -> float:
    """The expected reward of standing on `points` against the value of the dealer's open card (1 for an ace)."""
    ends = dealer_ends(EMPTY_HAND.plus(open_card))
    return sum(chance * outcome(points, dealer) for dealer, chance in ends.items())


@cache
def hit_value(hand: Total, open_card: int) -> float:
    """The expected reward of one more card and optimal play after it."""
    return sum(chance * best_value(hand.plus(value), open_card) for value, chance in CHANCES.items())


def best_value(hand: Total, open_card: int) -> float:
    """The expected reward of optimal play; -1 for a hand over 21."""
    if hand.points > LIMIT:
        return -1.0
    return max(stand_value(hand.points, open_card), hit_value(hand, open_card))

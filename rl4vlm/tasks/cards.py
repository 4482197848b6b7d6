"""Playing cards by name: suit letter + rank letter, as in the public code (`HK`, `DT`, `CA`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SUITS = "HDCS"
RANKS = "A23456789TJQK"
DECK = tuple(suit + rank for suit in SUITS for rank in RANKS)
BACK = "back"
TABLE = "#35654d"
"""The colour that cards lie on; their rounded corners show it."""
# Ranks as replies write them, for patterns that ignore case: an "a" before a word, a quote or a suit is an article.
_QUOTE = r"""\\?["'`\u2018-\u201d]|\*{1,2}"""
_RANK = r"""(?:\d{1,2}|[JQK]|A(?!\s+(?!and\b)[\w"'`\u2018-\u201d*\\\u2660-\u2667]))"""
SAID_RANK = rf"(?:{_QUOTE})?{_RANK}(?:{_QUOTE})?"
SAID_RANKS = rf"{SAID_RANK}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+){SAID_RANK})*"


def card_name(rank: int, rng: np.random.Generator) -> str:
    """The card of a rank (1 is the ace, 13 the king) in a uniformly drawn suit."""
    return SUITS[rng.integers(len(SUITS))] + RANKS[rank - 1]


def card_value(card: str) -> int:
    """The value of a card: 1 for the ace, 10 for J, Q and K."""
    return min(RANKS.index(card[1]) + 1, 10)


def shown_rank(card: str) -> str:
    """The rank as printed on the card: `A`, `2` … `10`, `J`, `Q`, `K`."""
    return "10" if card[1] == "T" else card[1]


def shown_ranks(cards: Sequence[str]) -> list[str]:
    """The printed ranks of several cards, in order."""
    return [shown_rank(card) for card in cards]


def check_cards(name: str, cards: Any, at_least: int, at_most: int | None = None) -> tuple[str, ...]:
    """Check a reset option that lists cards.

    Args:
        name: name of the option, for messages.
        cards: its value.
        at_least: smallest number of cards.
        at_most: largest number of cards; None for no limit.

    Returns:
        The card names as a tuple.

    Raises:
        ValueError: the value is no list, holds an unknown card or has the wrong length; the message names the option.
    """
    if isinstance(cards, str) or not isinstance(cards, Sequence):
        raise ValueError(f"option {name!r} must be a list of card names such as 'HK', not {cards!r}")
    for card in cards:
        if card not in DECK:
            raise ValueError(
                f"option {name!r} holds an unknown card {card!r}: names are suit (H D C S) + rank, such as 'DT'"
            )
    if len(cards) < at_least or (at_most is not None and len(cards) > at_most):
        wanted = str(at_least) if at_least == at_most else f"at least {at_least}"
        raise ValueError(f"option {name!r} must hold {wanted} cards, not {len(cards)}")
    return tuple(cards)


def check_option_names(options: Mapping[str, Any] | None, known: Sequence[str]) -> Mapping[str, Any]:
    """The reset options, empty for None. Raises ValueError that names an option which the task does not have."""
    given = options or {}
    for name in given:
        if name not in known:
            raise ValueError(f"unknown option {name!r}: the options of this task are {', '.join(map(repr, known))}")
    return given

"""Names and values of cards, and checks of reset options."""

import numpy as np
import pytest

from rl4vlm.tasks.cards import DECK, card_name, card_value, check_cards, check_option_names, shown_rank


def test_the_deck_has_52_cards():
    assert len(set(DECK)) == 52


@pytest.mark.parametrize(("card", "value", "rank"), [("HA", 1, "A"), ("D9", 9, "9"), ("CT", 10, "10"), ("SK", 10, "K")])
def test_value_and_printed_rank(card, value, rank):
    assert (card_value(card), shown_rank(card)) == (value, rank)


def test_suits_are_uniform():
    rng = np.random.default_rng(0)
    suits = [card_name(13, rng)[0] for _ in range(4000)]
    assert all(abs(suits.count(suit) - 1000) < 120 for suit in "HDCS")


@pytest.mark.parametrize("given", ["HK", 7, ["HK", "XX"], ["HK"], ["HK"] * 3, [1, 2]])
def test_bad_cards_are_named(given):
    with pytest.raises(ValueError, match="'cards'"):
        check_cards("cards", given, 2, 2)


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="'card'"):
        check_option_names({"card": ["HK"]}, ("cards",))

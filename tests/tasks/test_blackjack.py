"""Blackjack: its rules, the exact solver and its thoughts."""

from collections import Counter

import numpy as np
import pytest

from rl4vlm.tasks.blackjack import (
    CHANCES,
    EMPTY_HAND,
    LIMIT,
    Blackjack,
    BlackjackState,
    Total,
    best_value,
    dealer_ends,
    draw,
    hit_value,
    outcome,
    stand_value,
    total,
)

TASK = Blackjack()


class Cards(np.random.Generator):
    """A generator that deals chosen ranks (11, 12, 13: J, Q, K), all hearts."""

    def __init__(self, *ranks: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.ranks = list(ranks)

    def integers(self, low, high=None):  # type: ignore[override]
        if high == 14:
            self.rank = self.ranks.pop(0)
            return self.rank
        return self.rank - 11 if low == 3 else 0


def state(player, dealer):
    return BlackjackState(tuple(player.split()), tuple(dealer.split()))


@pytest.mark.parametrize(
    ("cards", "points", "soft"),
    [
        ("HA HK", 21, True),
        ("HA D5", 16, True),
        ("HA DA", 12, True),
        ("HA D5 CT", 16, False),
        ("HA DA C9", 21, True),
        ("HJ DQ", 20, False),
        ("HJ DQ CK", 30, False),
        ("H5 D6 CA SA", 13, False),
    ],
)
def test_totals(cards, points, soft):
    assert total(cards.split()) == Total(points, soft)


@pytest.mark.parametrize(
    ("player", "dealer", "drawn", "reward"),
    [
        ("HK D9", "CK S8", [], 1),
        ("HK D8", "CK S8", [], 0),
        ("HK D7", "CK S8", [], -1),
        ("HK D2", "CK S6", [13], 1),  # the dealer goes over
        ("HK D9", "CK S6", [5], -1),
        ("HK D9", "CA S6", [], 1),  # stands on a soft 17
        ("HA DK", "CA SK", [], 0),
        ("H7 D7", "C2 S2", [2, 1, 4], -1),  # 2 2 2 A = 17, soft
        ("H7 D7", "C2 S2", [2, 9, 4], -1),  # 2 2 2 9 4 = 19
    ],
)
def test_standing(player, dealer, drawn, reward):
    made = TASK.transition(state(player, dealer), "stand", Cards(*drawn))
    assert (made.reward, made.terminated, made.truncated) == (reward, True, False)


def test_hitting():
    made = TASK.transition(state("HK D2", "CK S6"), "hit", Cards(9))
    assert (made.reward, made.terminated) == (0, False)
    assert made.state.player == ("HK", "D2", "H9")
    made = TASK.transition(made.state, "hit", Cards(12))
    assert (made.reward, made.terminated, made.truncated) == (-1, True, False)
    assert made.state.player[-1] == "HQ"
    assert made.state.dealer == ("CK", "S6")


def test_info_and_scene_hide_nothing_and_one_card():
    shown = state("HK DA", "C9 S6")
    assert TASK.info(shown) == {
        "Player Card": [(10, "K", "H"), (1, "A", "D")],
        "Dealer Card": [(9, "9", "C"), (6, "6", "S")],
    }
    assert [item.card for item in TASK.scene(shown).items if hasattr(item, "card")] == ["C9", "back", "HK", "DA"]
    assert TASK.perception(shown) == {"dealer card": "9", "player cards": "K, A"}


def test_draws():
    rng = np.random.default_rng(0)
    drawn = Counter(draw(rng)[1] for _ in range(26_000))
    assert set(drawn) == set("A23456789JQK")
    for rank, count in drawn.items():
        assert count == pytest.approx(2000 * 4 / 3 if rank in "JQK" else 2000, rel=0.1)


def test_options():
    begun = TASK.start(np.random.default_rng(0), {"player": ["HK", "D5"], "dealer": ["CA", "S9"]})
    assert begun == state("HK D5", "CA S9")
    assert TASK.start(np.random.default_rng(0), {"player": ["H2"] * 6}).player == ("H2",) * 6
    bad = [
        ({"player": ["HK"]}, "player"),
        ({"player": ["HK", "HQ", "H2"]}, "player"),
        ({"dealer": ["HK"]}, "dealer"),
        ({"dealer": ["HK", "HQ", "H2"]}, "dealer"),
        ({"dealer": ["HK", "H1"]}, "dealer"),
        ({"cards": ["HK", "H2"]}, "cards"),
    ]
    for options, named in bad:
        with pytest.raises(ValueError, match=f"'{named}'"):
            TASK.start(np.random.default_rng(0), options)


# --- the optimum ------------------------------------------------------------------------------------------------------


def exactly(hits):
    """(wins, draws) in percent of a policy `hits(hand, open card)`, over all deals of an infinite deck."""

    def play(hand, open_card):
        if hand.points > LIMIT:
            return np.array([0.0, 0.0])
        if hits(hand, open_card):
            return sum(chance * play(hand.plus(value), open_card) for value, chance in CHANCES.items())
        ends = dealer_ends(EMPTY_HAND.plus(open_card)).items()
        won = sum(chance for points, chance in ends if outcome(hand.points, points) > 0)
        return np.array([won, dealer_ends(EMPTY_HAND.plus(open_card)).get(hand.points, 0.0)])

    deals = (
        (a * b * c, EMPTY_HAND.plus(first).plus(second), open_card)
        for first, a in CHANCES.items()
        for second, b in CHANCES.items()
        for open_card, c in CHANCES.items()
    )
    return 100 * sum(chance * play(hand, open_card) for chance, hand, open_card in deals)


def optimal(hand, open_card):
    return hit_value(hand, open_card) > stand_value(hand.points, open_card)


@pytest.mark.parametrize(
    ("hits", "win", "drawn"),
    [
        (lambda hand, _: False, 38.07, None),
        (lambda hand, _: hand.points < 17, 40.77, None),
        (optimal, 42.95, 9.45),
    ],
)
def test_policies_win_what_the_reference_says(hits, win, drawn):
    won, level = exactly(hits)
    assert won == pytest.approx(win, abs=0.006)
    if drawn is not None:
        assert level == pytest.approx(drawn, abs=0.006)
        assert (2 * won + level) / 100 - 1 == pytest.approx(-0.0466, abs=0.00006)


def test_the_dealers_chances_sum_to_one():
    for open_card in CHANCES:
        assert sum(dealer_ends(EMPTY_HAND.plus(open_card)).values()) == pytest.approx(1)
    assert best_value(Total(22, False), 5) == -1


@pytest.mark.parametrize(
    ("player", "dealer", "action"),
    [
        ("HK D6", "CK S2", "hit"),
        ("HK D6", "C6 S2", "stand"),
        ("HK D7", "CA S2", "stand"),
        ("HA D7", "C9 S2", "hit"),
        ("HA D7", "C8 S2", "stand"),
        ("HK D2", "C4 S2", "stand"),
        ("HK D2", "C2 S2", "hit"),
        ("HK D5 C6", "C2 S2", "stand"),
    ],
)
def test_expert_action_is_basic_strategy(player, dealer, action):
    expert_action = TASK.solve(state(player, dealer))
    assert (expert_action.action, expert_action.solvable) == (action, True)


def test_thoughts_can_be_read_back():
    shown = state("HA D5 CT", "CJ S2")
    expert_action = TASK.solve(shown)
    assert expert_action.entries["thoughts"].startswith(
        "The dealer shows J. My cards are A, 5, 10: 11, 16, 16 in all, hard."
    )
    assert "soft" in TASK.solve(state("HA D5", "CJ S2")).entries["thoughts"]
    text = f'{{"thoughts": "{expert_action.entries["thoughts"]}", "action": "hit"}}'
    for field, truth in TASK.perception(shown).items():
        found = TASK.perception_patterns[field].search(text)
        assert found is not None
        assert found[1] == truth

"""EZPoints and Points24: rules, deals and solvers."""

import time
from collections import Counter
from itertools import combinations_with_replacement
from math import factorial, prod

import numpy as np
import pytest

from rl4vlm.tasks.base import Text
from rl4vlm.tasks.cards import DECK, card_value
from rl4vlm.tasks.ezpoints import EZPoints
from rl4vlm.tasks.formula_game import FormulaState
from rl4vlm.tasks.points24 import Points24

RNG = np.random.default_rng(0)
CARD = {value: "H" + "A23456789T"[value - 1] for value in range(1, 11)}
HANDS = list(combinations_with_replacement(range(1, 11), 4))


def start(*numbers, formula=()):
    return FormulaState(tuple(CARD[number] for number in numbers), tuple(formula))


def play(task, state, actions):
    """(rewards, last transition) of a sequence of actions."""
    rewards: list[float] = []
    for action in actions:
        made = task.transition(state, str(action), RNG)
        state, rewards = made.state, [*rewards, made.reward]
    return rewards, made


def deals(hand):
    """The number of the 13^4 ordered deals of ranks with these values. Four ranks count ten."""
    orders = factorial(4) // prod(factorial(n) for n in Counter(hand).values())
    return orders * 4 ** hand.count(10)


# --- every path of the rules ------------------------------------------------------------------------------------------


def test_a_right_formula():
    rewards, last = play(EZPoints(), start(10, 2), [10, "+", 2, "="])
    assert rewards == [0, 0, 0, 10]
    assert (last.terminated, last.truncated) == (True, False)
    assert last.state.formula == (10, "+", 2)


@pytest.mark.parametrize(
    "actions", [["="], [10, "="], [10, "+", "="], [10, "*", 2, "="], ["+", "+", "="], [10, 2, "="]]
)
def test_a_wrong_formula(actions):
    rewards, last = play(EZPoints(), start(10, 2), actions)
    assert rewards == [0] * (len(actions) - 1) + [-1]
    assert last.terminated


def test_the_target_without_all_cards_is_wrong():
    rewards, _ = play(Points24(), start(4, 6, 1, 1), [4, "*", 6, "="])
    assert rewards[-1] == -1


def test_a_number_that_is_not_there_leaves_a_blank():
    rewards, last = play(EZPoints(), start(10, 2), [3])
    assert rewards == [-1]
    assert last.state.formula == (" ",)
    assert not last.terminated
    assert not last.truncated


def test_a_card_is_there_once():
    rewards, last = play(EZPoints(), start(6, 6), [6, 6, 6])
    assert rewards == [0, 0, -1]
    assert last.state.formula == (6, 6, " ")
    rewards, last = play(EZPoints(), start(10, 2), [2, 2])
    assert rewards == [0, -1]


@pytest.mark.parametrize("rules", ["strict", "upstream"])
def test_blanks_count_for_the_length_alone(rules):
    rewards, _ = play(EZPoints(rules), start(10, 2), [9, 10, "+", 9, 2, "="])
    assert rewards == [-1, 0, 0, -1, 0, 10]


def test_a_blank_parts_the_digits_that_upstream_would_join():
    assert play(EZPoints("upstream"), start(1, 2), [1, 2, "="])[0][-1] == 10
    assert play(EZPoints("upstream"), start(1, 2), [1, 9, 2, "="])[0][-1] == -1


@pytest.mark.parametrize(("task", "hand", "limit"), [(EZPoints(), (10, 2), 5), (Points24(), (1, 2, 3, 4), 20)])
def test_a_formula_that_is_too_long_is_cut_off(task, hand, limit):
    full = start(*hand, formula=["+"] * limit)
    applied = task.transition(full, "+", RNG)
    assert (applied.reward, applied.terminated, applied.truncated) == (0, False, False)
    assert len(applied.state.formula) == limit + 1
    assert task.transition(full, "=", RNG).terminated
    for action in ("+", "=", "1"):
        refused = task.transition(applied.state, action, RNG)
        assert (refused.reward, refused.terminated, refused.truncated) == (-1, False, True)
        assert refused.state == applied.state


def test_a_right_formula_that_is_too_long_is_not_paid():
    state = start(10, 2, formula=[" ", " ", " ", 10, "+", 2])
    assert EZPoints().transition(state, "=", RNG).reward == -1


FORMULAS = [  # items, paid under strict rules, paid under upstream's
    ([8, "/", "(", 3, "-", 8, "/", 3, ")"], True, False),
    ([2, "*", "*", 3, "*", 3, "*", 1], False, True),
    ([10, "/", "/", 4, "*", 2, "*", 6], False, True),
    ([2, 4, "*", 1, "*", 1], False, True),
    ([2, 4, "+", 1, "-", 1], False, True),
    ([9, "*", "*", 9, "*", "*", 9, "*", 1], False, False),
    ([4, "*", 6, "*", 1, "*", 1], True, True),
    (["(", "(", 4, ")", "*", 6, ")", "*", "(", 1, "*", 1, ")"], True, True),
    (["-", 4, "*", "(", 1, "-", 7, ")", "*", 1], True, True),
    ([4, "(", 6, ")", "*", 1, "*", 1], False, False),
    ([4, "*", 6, "*", "(", 1, "*", 1], False, False),
    ([4, "*", 6, ")", "*", 1, "*", 1], False, False),
    ([4, "*", "/", 6, "+", 1, "+", 1], False, False),
    ([4, "*", 6, "/", "(", 1, "-", 1, ")"], False, False),
    (["(", ")", 4, "*", 6, "*", 1, "*", 1], False, False),
]


@pytest.mark.parametrize(("items", "strict", "upstream"), FORMULAS)
def test_what_each_rule_pays(items, strict, upstream):
    hand = [item for item in items if isinstance(item, int)]
    begun = time.perf_counter()
    for rules, paid in (("strict", strict), ("upstream", upstream)):
        rewards, last = play(Points24(rules), start(*hand), [*items, "="])
        assert rewards == [0] * len(items) + [10 if paid else -1]
        assert last.terminated
    assert time.perf_counter() - begun < 1


def test_info_and_scene():
    state = FormulaState(("HK", "D2"), (10, "+"))
    task = EZPoints()
    assert task.info(state) == {"Cards": ["HK", "D2"], "Numbers": [10, 2], "Formula": [10, "+"]}
    assert task.fields(state) == {"formula": "10 +"}
    assert task.perception(state) == {"cards": "K, 2"}
    line = task.scene(state).items[-1]
    assert isinstance(line, Text)
    assert line.text == "Formula: 10 +"
    with pytest.raises(ValueError, match="'loose'"):
        EZPoints("loose")


# --- deals ------------------------------------------------------------------------------------------------------------


def test_ezpoints_deals():
    task, rng = EZPoints(), np.random.default_rng(1)
    deal = [task.start(rng) for _ in range(24_000)]
    assert all(12 in (sum(s.numbers), prod(s.numbers)) for s in deal)
    seen = Counter(tuple(sorted(card[1] for card in s.cards)) for s in deal)
    each = len(deal) / 12  # the first rank is uniform on 2..13
    assert seen["2", "K"] == pytest.approx(each, rel=0.15)
    assert seen["7", "5"] + seen["5", "7"] == pytest.approx(2 * each, rel=0.15)  # dealt from either side
    assert seen["2", "6"] == pytest.approx(each, rel=0.15)  # 12 / 2 and 12 / 6, each half the time
    assert seen["6", "6"] == pytest.approx(each / 2, rel=0.15)
    assert seen["2", "T"] == pytest.approx(1.5 * each, rel=0.15)
    first = Counter(s.cards[0][1] for s in deal)
    assert first["K"] == pytest.approx(each / 2, rel=0.15)  # swapped half the time
    assert {card for s in deal for card in s.cards} == {card for card in DECK if card[1] != "A"}


def test_points24_deals():
    task, rng = Points24(), np.random.default_rng(1)
    cards = Counter(card for _ in range(6500) for card in task.start(rng).cards)
    assert set(cards) == set(DECK)
    assert all(count == pytest.approx(500, rel=0.25) for count in cards.values())


@pytest.mark.parametrize("task", [EZPoints(), Points24()])
def test_options(task):
    cards = ["HK", "D2", "SA", "CT"][: task.card_count]
    assert task.start(RNG, {"cards": cards}).cards == tuple(cards)
    for options, named in [
        ({"cards": cards[1:]}, "cards"),
        ({"cards": ["ZZ"] * 4}, "cards"),
        ({"player": []}, "player"),
    ]:
        with pytest.raises(ValueError, match=f"'{named}'"):
            task.start(RNG, options)


# --- solvers ----------------------------------------------------------------------------------------------------------


def follow(task, state):
    """(total reward, the thoughts' formulas) of an episode that follows the solver."""
    total, formulas = 0.0, []
    while True:
        expert_action = task.solve(state)
        formulas.append(expert_action.entries["thoughts"].split(" = ")[0])
        made = task.transition(state, expert_action.action, RNG)
        total, state = total + made.reward, made.state
        if made.terminated or made.truncated:
            return total, formulas


def test_the_ezpoints_solver_wins_every_deal():
    task, rng = EZPoints(), np.random.default_rng(2)
    for _ in range(500):
        total, formulas = follow(task, task.start(rng))
        assert total == 10
        assert len(set(formulas)) == 1


def test_20876_of_28561_deals_are_solvable_and_the_solver_wins_them():
    task, won = Points24(), 0
    for hand in HANDS:
        solvable = task.solve(start(*hand)).solvable
        total, formulas = follow(task, start(*hand))
        assert total == (10 if solvable else -1), hand
        assert len(set(formulas)) == 1, formulas
        assert len(formulas) <= 20
        won += deals(hand) * solvable
    assert sum(map(deals, HANDS)) == 13**4
    assert won == 20_876


def test_under_floats_only_one_hand_is_lost():
    task = Points24("upstream")
    for hand in HANDS:
        solvable = Points24().solve(start(*hand)).solvable and hand != (3, 3, 8, 8)
        assert task.solve(start(*hand)).solvable == solvable, hand
        assert follow(task, start(*hand))[0] == (10 if solvable else -1), hand


@pytest.mark.parametrize("rules", ["strict", "upstream"])
def test_expert_action_from_any_prefix_is_kept(rules):
    """After any wrong actions, the solver knows whether the hand can still be won, and then wins it."""
    task, rng = Points24(rules), np.random.default_rng(3)
    kept = 0
    for _ in range(80):
        state = task.start(rng)
        for _ in range(rng.integers(1, 9)):
            state = task.transition(state, task.actions[rng.integers(16)], rng).state
        if task.solve(state).solvable:
            kept += 1
            assert follow(task, state)[0] == 10, state
    assert kept > 5


def test_straying_where_a_token_is_legal():
    task, rng = Points24(), np.random.default_rng(4)
    rescued = 0
    for _ in range(60):
        state = task.start(rng)
        while task.solve(state).solvable and len(state.formula) < 14 and rng.random() < 0.9:
            state = task.transition(state, task.solve(state).action, rng).state
            options = ["(", ")", "+", "-", "*", "/", *map(str, state.left)]
            strayed = task.transition(state, options[rng.integers(len(options))], rng).state
            if task.solve(strayed).solvable:
                state = strayed
                rescued += 1
                assert follow(task, state)[0] == 10, state
            if not state.left:
                break
    assert rescued > 20


def test_expert_action_at_the_limits():
    assert not Points24().solve(start(1, 2, 3, 4, formula=["+"] * 14)).solvable
    assert not Points24().solve(start(1, 2, 3, 4, formula=[" "] * 14)).solvable
    assert Points24().solve(start(1, 2, 3, 4, formula=[" "] * 13)).solvable
    assert not EZPoints().solve(start(10, 2, formula=[" "] * 3)).solvable
    assert EZPoints().solve(start(10, 2, formula=[" "] * 2)).solvable
    broken = EZPoints().solve(start(10, 2, formula=[10, 2]))
    assert (broken.action, broken.solvable) == ("=", False)
    for task, hand in ((EZPoints(), (10, 2)), (Points24(), (1, 2, 3, 4))):
        assert not task.solve(start(*hand, formula=["+"] * 21)).solvable


def test_expert_action_entries():
    expert_action = EZPoints().solve(FormulaState(("DT", "H2"), (10, "+")))
    assert expert_action.entries == {
        "cards": ["10", "2"],
        "current formula": "10 +",
        "thoughts": "10 + 2 = 12, so the next item is 2.",
    }
    assert expert_action.action == "2"
    for task in (EZPoints(), Points24()):
        assert tuple(task.solve(task.start(RNG)).entries) == task.prompt.keys


def test_card_values():
    assert [card_value(card) for card in ("HA", "HT", "HJ", "HK")] == [1, 10, 10, 10]

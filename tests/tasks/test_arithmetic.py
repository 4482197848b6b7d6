"""Exact evaluation, expressions, completions and Python's own arithmetic. `tests/torture` compares evaluators."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4vlm.tasks import arithmetic
from rl4vlm.tasks.arithmetic import completions, exact_value, express, read_all, values
from rl4vlm.tasks.python_value import python_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/(3-8/3)", 23.99999999999999),
        ("2**3*3*1", 24),
        ("10//4", 2),
        ("12", 12),
        ("10 +2", 12),
        (" 10+2", 12),
        ("1 2", None),
        ("2* *3", None),
        ("2(3)", None),
        ("", None),
        ("()", None),
        ("1/0", None),
        ("2**-1", 0.5),
        ("(-8)**(1/3)", (-8) ** (1 / 3)),
        ("(-2)**(1/3)//4", None),
        ("__import__('os')", None),
        ("[1]*10", None),
        ("'a'*9", None),
        ("True+11", None),
        ("1<<4", None),
        ("1if 2else 3", None),
        ("1\ud800", None),
        ("1\0", None),
    ],
)
def test_python_value(text, value):
    assert python_value(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "9**9**9**9",
        "10**10**10*1",
        "(" * 150 + "1" + ")" * 150,
        "1+" * 10_000 + "1",
        "99**999**99",
        "9**(9**9*9.5)",
    ],
)
def test_python_value_neither_hangs_nor_raises(text):
    begun = time.perf_counter()
    assert python_value(text) in (None, 1)
    assert time.perf_counter() - begun < 0.5


def test_the_bound_on_powers_leaves_what_four_cards_can_bring_back_to_24():
    assert python_value("10**1010") == 10**1010


@pytest.mark.parametrize(
    ("cards", "target", "text"),
    [
        ((3, 3, 8, 8), 24, "8 / ( 3 - 8 / 3 )"),
        ((10, 2), 12, "10 + 2"),
        ((1, 1, 1, 1), 24, None),
        ((4, 4, 10, 10), 24, "( 10 * 10 - 4 ) / 4"),
        ((5,), 5, "5"),
    ],
)
def test_express_finds_the_shortest_expression(cards, target, text):
    tokens = express(cards, target)
    assert (tokens and " ".join(map(str, tokens))) == text


def test_values_of_two_cards():
    assert values((2, 8)) == {10, -6, 6, 16, 4, Fraction(1, 4)}


def by_trying(tokens, left, target, longest):
    """Whether some continuation makes the target, found token by token."""
    partial = read_all(tokens)
    if partial is None:
        return False
    if not left and exact_value(tokens) == target:
        return True
    if longest == 0:
        return False
    opened = len(partial.frames) < 4 and bool(left)
    following = [(card, tuple(c for i, c in enumerate(left) if i != left.index(card))) for card in set(left)]
    following += [(sign, left) for sign in "+-*/"] if left else []
    following += [("(", left)] if opened else []
    following += [(")", left)]
    return any(by_trying((*tokens, token), rest, target, longest - 1) for token, rest in following)


PREFIXES = [
    ((4, "-", "("), (2, 10), 24),  # only a sign helps: 4 - (-2 * 10)
    ((4, "-"), (2, 10), 24),
    ((1, "/", "("), (3, 5), 15),
    ((1, "/", "("), (3, 5), Fraction(1, 15)),
    ((2, "*", "(", "(", 3), (9,), 24),
    ((2, "*", "(", "(", 3), (9, 10), 4),
    ((6, "/", "(", 1, "-"), (3, 4), 24),
    ((7, "/"), (7, 2), 2),
    ((7, "/"), (2, 7), Fraction(1, 2)),
    (("(", 2, "+"), (4,), 12),
    (("-",), (2, 10), 8),
    ((5, "-", 3), (1, 2), 5),
    ((2, ")"), (3,), 5),
    ((2, 3), (4,), 5),
    ((8, "/", "(", 4, "-", 4), (3,), 24),
]


@pytest.mark.parametrize(("tokens", "left", "target"), PREFIXES)
def test_completions_make_the_target_wherever_trying_every_token_does(tokens, left, target):
    found = list(completions(tokens, left, target))
    for rest in found:
        assert exact_value((*tokens, *rest)) == target
        assert sorted(token for token in rest if isinstance(token, int)) == sorted(left)
    assert bool(found) == by_trying(tokens, left, target, 7)


FORMULAS = st.recursive(
    st.integers(1, 4).map(lambda number: (number,)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda made: (*made[0], made[1], *made[2])),
        inner.map(lambda made: ("(", *made, ")")),
        inner.map(lambda made: ("-", *made)),
    ),
    max_leaves=4,
).filter(lambda tokens: exact_value(tokens) is not None)


@settings(max_examples=1000, deadline=None)
@given(FORMULAS, st.integers(0, 20))
def test_a_formula_cut_anywhere_can_be_completed_to_its_value(formula, cut):
    """With signs, unnecessary brackets and products with zero."""
    begun, target = formula[:cut], exact_value(formula)
    assert target is not None
    rest = next(completions(begun, [token for token in formula[cut:] if isinstance(token, int)], target), None)
    assert rest is not None
    assert exact_value((*begun, *rest)) == target


def test_completion_holds_to_its_budget():
    assert arithmetic.complete((), (1, 2, 3, 4), 24, 20) is not None
    assert arithmetic.complete((), (1, 2, 3, 4), 24, 6) is None

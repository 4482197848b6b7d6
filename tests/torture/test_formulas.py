"""The evaluators of formulas: no input raises or takes long, and values agree with independent evaluators."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4vlm.tasks.arithmetic import Token, exact_value
from rl4vlm.tasks.ezpoints import EZPoints
from rl4vlm.tasks.formula_game import BLANK, FormulaGame, FormulaState
from rl4vlm.tasks.points24 import Points24
from rl4vlm.tasks.python_value import python_value
from tests.torture.mutate import mutated
from tests.torture.records import budget, trial

ITEMS: tuple[Token, ...] = (1, 2, 3, 8, 10, "+", "-", "*", "/", "(", ")")
SEQUENCES = st.lists(st.sampled_from(ITEMS), max_size=9)
VALUES: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def fraction_of(node: ast.expr) -> Fraction:
    """The value of a node of Python's grammar, in rational numbers."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        value = fraction_of(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in VALUES:
        return VALUES[type(node.op)](fraction_of(node.left), fraction_of(node.right))
    raise SyntaxError(ast.dump(node))


def exact(tokens: Sequence[Token]) -> Fraction | None:
    """What `exact_value` should return. Spaces between items keep two numbers from becoming one."""
    try:
        return fraction_of(ast.parse(" ".join(map(str, tokens)), mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        return None


def check_exact(tokens: Sequence[Token]) -> str:
    expected = exact(tokens)
    found = exact_value(tokens)
    assert found == expected, f"{found}, not {expected}"
    return "were malformed for both" if expected is None else "had the same value"


def check_python(text: str) -> str:
    """Assert that `python_value` agrees with `eval`, where `eval` is safe to call."""
    found = python_value(text)
    if text.count("**") > 1 or len(text) > 12:  # eval might not end
        return "were not given to eval"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # eval warns of 2(3)
        try:
            expected = eval(text)
        except (SyntaxError, ArithmeticError, TypeError):
            expected = None
    expected = None if expected == () else expected
    if expected is not None and found is None:
        assert isinstance(expected, int), f"none, not {expected}"
        assert abs(expected) > 2**1000, f"none, not {expected}"
        return "were too large a power"
    # NaN equals nothing, itself included.
    assert (repr(found), type(found)) == (repr(expected), type(expected)), f"{found}, not {expected}"
    return "were an error for both" if expected is None else "had the same value"


def formula(rng: Random, depth: int = 0) -> list[Token]:
    """A well-formed formula."""
    kind = rng.random()
    if depth > 3 or kind < 0.3:
        return [rng.choice((1, 2, 3, 8, 10))]
    if kind < 0.8:
        return [*formula(rng, depth + 1), rng.choice("+-*/"), *formula(rng, depth + 1)]
    inside = formula(rng, depth + 1)
    return ["(", *inside, ")"] if kind < 0.95 else [rng.choice("+-"), *inside]


def sequence(rng: Random) -> list[Token]:
    """Random items, or a formula with one of them changed."""
    if rng.random() < 0.4:
        return rng.choices(ITEMS, k=rng.randrange(12))
    items = formula(rng)
    if rng.random() < 0.5:
        items[rng.randrange(len(items))] = rng.choice(ITEMS)
    return items


def test_exact_values() -> None:
    rng = Random(4)
    with trial("Evaluators", "`rules: strict` (`exact_value`), against fractions in Python's grammar") as tried:
        for _ in range(budget(short=3_000, long=1_000_000)):
            tried.attempt(check_exact, sequence(rng))


def test_python_values() -> None:
    rng = Random(5)
    with trial("Evaluators", "`rules: upstream` (`python_value`), against `eval`") as tried:
        for _ in range(budget(short=2_000, long=1_000_000)):
            tried.attempt(check_python, "".join(map(str, sequence(rng))))


def test_texts_that_are_no_formulas() -> None:
    texts = ["8/(3-8/3)", "2**3*3*1", "(-8)**(1/3)//2", "__import__('os')", "1if 2else 3", "[1]*10", "0x1f"]
    rng = Random(6)
    with trial("Evaluators", "`python_value` on any text: mutations") as tried:
        for _ in range(budget(short=1_000, long=200_000)):
            text = mutated(rng.choice(texts), rng, texts)
            tried.attempt(lambda text: assert_number(python_value(text)), text)


def assert_number(value: object) -> str:
    assert value is None or type(value) in (int, float, complex)
    return "were no number" if value is None else "were a number"


def test_sequences_by_hypothesis() -> None:
    with trial("Evaluators", "both, on any items (hypothesis)") as tried:

        @settings(deadline=None, max_examples=budget(short=200, long=20_000))
        @given(SEQUENCES)
        def read(tokens: list[Token]) -> None:
            tried.ended(check_exact(tokens))
            tried.ended(check_python("".join(map(str, tokens))))

        read()


def play(game: FormulaGame, rng: Random) -> str:
    """Play random legal actions. Rewards must be those of the rules, and the solver must answer in every state."""
    dice = np.random.default_rng(rng.randrange(2**32))
    state: FormulaState = game.start(dice)
    while True:
        action = rng.choice((*game.actions, *map(str, state.left), *map(str, state.left)))
        pays = game.pays(state)
        if rng.random() < 0.1:
            expert = game.solve(state)
            assert expert.action in game.actions, "the solver's action is illegal"
        after = game.transition(state, action, dice)
        if after.truncated:
            return "were cut off"
        if after.terminated:
            if game.rules == "strict":
                wins = not state.left and exact([item for item in state.formula if item != BLANK]) == game.target
                assert wins == pays, "another value"
            assert after.reward == (10 if pays else -1)
            return "were won" if pays else "were lost"
        state = after.state


@pytest.mark.parametrize("rules", ["strict", "upstream"])
@pytest.mark.parametrize("kind", [EZPoints, Points24])
def test_episodes(kind: type[FormulaGame], rules: str) -> None:
    rng, game = Random(7), kind(rules=rules)
    with trial("Evaluators", f"episodes of {game.name}, `rules: {rules}`, at random") as tried:
        for _ in range(budget(short=100, long=50_000)):
            tried.attempt(partial(play, game), rng)

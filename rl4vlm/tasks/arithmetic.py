"""Formulas: exact evaluation, completion of a formula begun, and a bounded stand-in for Python's `eval`.

A formula is a sequence of tokens: ints, and the strings `+ - * / ( )`. `exact_value` reads ordinary notation (a sign
may stand before any factor) in rational arithmetic. `complete` finds a short continuation that reaches a target with
every card used once; it never tries token after token, but solves for the value that the rest must have.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache, lru_cache
from itertools import combinations, product
from typing import Any, NamedTuple

Token = int | str
Tokens = tuple[Token, ...]
Cards = tuple[int, ...]

OPERATORS = ("+", "-", "*", "/")

# How tightly an expression binds; a looser one needs brackets inside a tighter one.
ATOM, PRODUCT, SUM = 0, 1, 2
_KIND = {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT}
_LOOSEST_LEFT = {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT}
_LOOSEST_RIGHT = {"+": SUM, "-": PRODUCT, "*": PRODUCT, "/": ATOM}

MAX_INT_BITS = 4096
MAX_TEXT = 200


class Frame(NamedTuple):
    """One open bracket level, a factor `f` awaited: its value so far is `total + product * f`, or `product / f`."""

    total: Fraction
    product: Fraction
    divide: bool


class Partial(NamedTuple):
    """A formula read so far: open levels, innermost last, and the factor just read (None where one is awaited)."""

    frames: tuple[Frame, ...]
    factor: Fraction | None


_OPEN = Frame(Fraction(0), Fraction(1), False)
EMPTY = Partial((_OPEN,), None)


def read(partial: Partial, token: Token) -> Partial | None:
    """The formula with one more token, or None where that is malformed or divides by zero."""
    if partial.factor is None:
        return _read_factor(partial, token)
    folded = _fold(partial)
    if folded is None:
        return None
    outer, top = partial.frames[:-1], partial.frames[-1]
    if token == ")":
        return Partial(outer, top.total + folded) if outer else None
    if token in ("*", "/"):
        return Partial((*outer, Frame(top.total, folded, token == "/")), None)
    if token in ("+", "-"):
        return Partial((*outer, Frame(top.total + folded, Fraction(1 if token == "+" else -1), False)), None)
    return None


def _read_factor(partial: Partial, token: Token) -> Partial | None:
    outer, top = partial.frames[:-1], partial.frames[-1]
    if isinstance(token, int):
        return Partial(partial.frames, Fraction(token))
    if token == "(":
        return Partial((*partial.frames, _OPEN), None)
    if token == "-":
        return Partial((*outer, top._replace(product=-top.product)), None)
    return partial if token == "+" else None


def _fold(partial: Partial) -> Fraction | None:
    """The innermost product with its last factor, or None where that divides by zero."""
    top, factor = partial.frames[-1], partial.factor
    assert factor is not None
    if not top.divide:
        return top.product * factor
    return top.product / factor if factor else None


def read_all(tokens: Sequence[Token], partial: Partial = EMPTY) -> Partial | None:
    """A formula's tokens read one after the other, or None where they are malformed or divide by zero."""
    current: Partial | None = partial
    for token in tokens:
        if current is None:
            return None
        current = read(current, token)
    return current


def exact_value(tokens: Sequence[Token]) -> Fraction | None:
    """The value of a formula, or None where it is not well-formed or divides by zero.

    Two numbers in a row, `**`, `//` and a bracket straight after a number are not well-formed.
    """
    partial = read_all(tokens)
    if partial is None or partial.factor is None or len(partial.frames) > 1:
        return None
    folded = _fold(partial)
    return None if folded is None else partial.frames[-1].total + folded


# --- expressions of a set of cards ------------------------------------------------------------------------------------


def _key(tokens: Tokens) -> tuple[int, tuple[str, ...]]:
    return len(tokens), tuple(map(str, tokens))


@cache
def _splits(cards: Cards) -> tuple[tuple[Cards, Cards], ...]:
    """All ways to part sorted cards in two non-empty hands, order of the hands counting, duplicates left out."""
    places = range(len(cards))
    parts = {
        (tuple(cards[i] for i in chosen), tuple(cards[i] for i in places if i not in chosen))
        for size in range(1, len(cards))
        for chosen in combinations(places, size)
    }
    return tuple(sorted(parts))


@cache
def values(cards: Cards) -> frozenset[Fraction]:
    """Every value that sorted cards can make, each used once, with `+ - * /` and brackets."""
    if len(cards) == 1:
        return frozenset({Fraction(cards[0])})
    made: set[Fraction] = set()
    for left, right in _splits(cards):
        for a in values(left):
            for b in values(right):
                made |= {a + b, a - b, a * b}
                if b:
                    made.add(a / b)
    return frozenset(made)


@lru_cache(maxsize=100_000)
def _express(cards: Cards, value: Fraction, every: bool = False) -> tuple[tuple[int, Tokens], ...]:
    """Expressions that make `value` of sorted cards, each with its kind: the shortest of each kind, or every one."""
    if len(cards) == 1:
        return ((ATOM, (cards[0],)),) if cards[0] == value else ()
    made: dict[int, set[Tokens]] = {PRODUCT: set(), SUM: set()}
    for left, right in _splits(cards):
        for sign, a, b in _operands(left, right, value):
            for (left_kind, left_text), (right_kind, right_text) in product(
                _express(left, a, every), _express(right, b, every)
            ):
                first = _bracket(left_text, left_kind, _LOOSEST_LEFT[sign])
                second = _bracket(right_text, right_kind, _LOOSEST_RIGHT[sign])
                made[_KIND[sign]].add((*first, sign, *second))
    kept = {kind: texts if every else [min(texts, key=_key)] for kind, texts in made.items() if texts}
    return tuple((kind, text) for kind, texts in kept.items() for text in texts)


def _bracket(tokens: Tokens, kind: int, loosest: int) -> Tokens:
    return tokens if kind <= loosest else ("(", *tokens, ")")


def _operands(left: Cards, right: Cards, value: Fraction) -> Iterator[tuple[str, Fraction, Fraction]]:
    """All (operator, a, b) with `a operator b == value`, a made of `left` and b of `right`.

    Only the smaller side is enumerated; the other operand is solved for.
    """
    if len(left) <= len(right):
        makes = values(right)
        for a in values(left):
            wanted = [("+", value - a), ("-", a - value)]
            if a:
                wanted.append(("*", value / a))
                if value:
                    wanted.append(("/", a / value))
            elif not value:
                wanted += [(sign, b) for b in makes for sign in "*/" if b or sign == "*"]
            yield from ((sign, a, b) for sign, b in wanted if b in makes)
    else:
        makes = values(left)
        for b in values(right):
            wanted = [("+", value - b), ("-", value + b)]
            if b:
                wanted += [("*", value / b), ("/", value * b)]
            elif not value:
                wanted += [("*", a) for a in makes]
            yield from ((sign, a, b) for sign, a in wanted if a in makes)


def express(cards: Sequence[int], value: int | Fraction) -> Tokens | None:
    """The shortest plain expression (no signs before factors) of all cards that makes `value`, or None."""
    made = _express(tuple(sorted(cards)), Fraction(value))
    return min((text for _, text in made), key=_key, default=None)


# --- completion of a formula begun ------------------------------------------------------------------------------------
#
# What may follow a formula begun is, level by level: more factors of the product it stands in, then more terms, then
# the closing bracket. A run of factors multiplies (or divides) by a value of the cards in it, or by that value negated,
# and a run of terms adds or takes away such a value. So it is enough to share the cards out over these runs, and the
# last run's value follows from the target.

_FLIPPED_TERMS: dict[Token, str] = {"+": "-", "-": "+"}
_FLIPPED_FACTORS: dict[Token, str] = {"*": "/", "/": "*"}


def _last_values(partial: Partial, left: Cards, target: Fraction) -> Collection[Fraction]:
    """What the cards left may make to give `target`, if they make one factor and every bracket closes right after it.

    That is a single value, or none; or any, inside a product with zero.
    """
    for frame in partial.frames:
        lacking = target - frame.total
        if not frame.product:
            return () if lacking else values(left)
        if frame.divide and not lacking:
            return ()
        target = frame.product / lacking if frame.divide else lacking / frame.product
    return (target,)


class Goal(NamedTuple):
    """The value to make, and whether every way to write a run is wanted rather than the shortest."""

    value: Fraction
    every: bool


def completions(
    tokens: Sequence[Token], left: Sequence[int], target: int | Fraction, every: bool = False
) -> Iterator[Tokens]:
    """Continuations of a formula that use each card in `left` once and make `target`, in no order.

    At least one is found where there are any. Of the ways to make a run's value of the same cards only the shortest is
    used, or with `every` each.
    """
    partial = read_all(tokens)
    if partial is None:
        return
    cards, goal = tuple(sorted(left)), Goal(Fraction(target), every)
    if partial.factor is not None:
        yield from _after_factor(partial, cards, goal)
        return
    for run, after, others in _factors(partial, cards, goal):
        for rest in _after_product(after, others, goal):
            yield (*run, *rest)


def _after_factor(partial: Partial, left: Cards, goal: Goal) -> Iterator[Tokens]:
    """What may follow a factor: the end of its product, or more factors first."""
    yield from _after_product(partial, left, goal)
    for sign in "*/":
        begun = read(partial, sign)
        for run, after, others in _factors(begun, left, goal) if begun else ():
            for rest in _after_product(after, others, goal):
                yield (sign, *run, *rest)


def _after_product(partial: Partial, left: Cards, goal: Goal) -> Iterator[Tokens]:
    """What may follow a product: the end of its level, or more terms first."""
    yield from _after_level(partial, left, goal)
    for sign in "+-":
        begun = read(partial, sign)
        for run, after, others in _terms(begun, left, goal) if begun else ():
            for rest in _after_level(after, others, goal):
                yield (sign, *run, *rest)


def _after_level(partial: Partial, left: Cards, goal: Goal) -> Iterator[Tokens]:
    """What may follow a complete level: its closing bracket, or nothing where the formula is complete."""
    if len(partial.frames) > 1:
        closed = read(partial, ")")
        for rest in _after_factor(closed, left, goal) if closed else ():
            yield (")", *rest)
    elif not left and _fold(partial) == goal.value - partial.frames[0].total:
        yield ()


Run = tuple[Tokens, Partial, Cards]


def _factors(partial: Partial, left: Cards, goal: Goal) -> Iterator[Run]:
    """Runs of factors where one is awaited: (tokens, the formula after them, the cards still left)."""
    negated = read(partial, "-")
    assert negated is not None
    flip = _FLIPPED_FACTORS if partial.frames[-1].divide else {}
    for signs, begun in (((), partial), (("-",), negated)):
        for text, after, others in _runs(begun, left, goal, PRODUCT, flip):
            yield (*signs, *text), after, others


def _terms(partial: Partial, left: Cards, goal: Goal) -> Iterator[Run]:
    """Runs of terms where one is awaited."""
    flip = _FLIPPED_TERMS if partial.frames[-1].product < 0 else {}
    yield from _runs(partial, left, goal, SUM, flip)


def _runs(partial: Partial, left: Cards, goal: Goal, loosest: int, flip: Mapping[Token, str]) -> Iterator[Run]:
    """Values of some of the cards, written without brackets up to the kind `loosest`.

    `flip` exchanges the operators of a run that is subtracted or divided by: - (a + b) is written - a - b.
    """
    if not left:
        return
    for part, others in ((left, ()), *_splits(left)):
        for value in values(part) if others else _last_values(partial, left, goal.value):
            texts = [
                _flipped(text, flip) if kind == loosest else _bracket(text, kind, loosest)
                for kind, text in _express(part, value, goal.every)
            ]
            for text in texts if goal.every or not texts else (min(texts, key=_key),):
                yield text, Partial(partial.frames, value), others


def _flipped(tokens: Tokens, flip: Mapping[Token, str]) -> Tokens:
    """The tokens with the operators outside brackets exchanged."""
    depth, changed = 0, []
    for token in tokens:
        depth += (token == "(") - (token == ")")
        changed.append(token if depth else flip.get(token, token))
    return tuple(changed)


@lru_cache(maxsize=50_000)
def complete(tokens: Tokens, left: Cards, target: int, budget: int) -> Tokens | None:
    """A short continuation of a formula, at most `budget` tokens, that makes `target` (above 0) with all cards left.

    None where there is none: in particular where a plain expression of all the cards cannot make the target, as signs
    before factors add nothing then. A formula begun as the shortest plain expression of its cards is completed as that
    expression, so that advice that is followed keeps to one expression.
    """
    cards = (*left, *(token for token in tokens if isinstance(token, int)))
    plain = express(cards, target)
    if plain is None:
        return None
    if plain[: len(tokens)] == tokens:
        found: Tokens | None = plain[len(tokens) :]
    else:
        found = min(completions(tokens, left, target), key=_key, default=None)
    return None if found is None or len(found) > budget else found


# --- Python's eval, bounded -------------------------------------------------------------------------------------------


class Refused(ValueError):
    """The text is not a formula, or would take unbounded work."""


def _bounded_power(base: Any, exponent: Any) -> Any:
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and exponent > 0 and abs(base) > 1 and base.bit_length() * exponent > MAX_INT_BITS:
        raise Refused("the power is too large")
    return base**exponent


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: _bounded_power,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def _evaluate(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_evaluate(node.operand))
    raise Refused(f"{type(node).__name__} is not arithmetic")


def python_value(text: str) -> int | float | complex | None:
    """What Python's `eval` makes of an arithmetic text, or None where it would raise, or not be arithmetic.

    Nothing is run: numbers, `+ - * / // **`, signs and brackets are computed, all else is refused, as are powers beyond
    `MAX_INT_BITS` bits, which no four cards can bring back to 24.
    """
    text = text.lstrip(" \t")
    if len(text) > MAX_TEXT:
        return None
    try:
        result: int | float | complex = _evaluate(ast.parse(text, mode="eval").body)
    except (SyntaxError, Refused, ArithmeticError):
        return None
    return result

"""Formulas: exact evaluation, and completion of a partial formula.

A formula is a sequence of tokens: ints, and the strings `+ - * / ( )`. `exact_value` evaluates ordinary notation (a
sign may stand before any factor) with fractions. `complete` finds a short continuation that makes a target and uses
every card once. It does not search token by token: it solves for the value that the remaining cards must make.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache, lru_cache
from itertools import combinations, product
from typing import NamedTuple

Token = int | str
Tokens = tuple[Token, ...]
Cards = tuple[int, ...]

OPERATORS = ("+", "-", "*", "/")

# How tightly an expression binds. A looser one needs brackets inside a tighter one.
ATOM, PRODUCT, SUM = 0, 1, 2
_KIND = {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT}
_LOOSEST_LEFT = {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT}
_LOOSEST_RIGHT = {"+": SUM, "-": PRODUCT, "*": PRODUCT, "/": ATOM}


class Frame(NamedTuple):
    """One open bracket level. With the next factor `f` its value is `total + product * f`, or `total + product / f`."""

    total: Fraction
    product: Fraction
    divide: bool


class Partial(NamedTuple):
    """A partial formula: its open levels, innermost last, and the last factor (None if a factor must follow)."""

    frames: tuple[Frame, ...]
    factor: Fraction | None


_OPEN = Frame(Fraction(0), Fraction(1), False)
EMPTY = Partial((_OPEN,), None)


def read(partial: Partial, token: Token) -> Partial | None:
    """Append a token to a partial formula. None if the result is malformed or divides by zero."""
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
    """The innermost product with its last factor, or None if that divides by zero."""
    top, factor = partial.frames[-1], partial.factor
    assert factor is not None
    if not top.divide:
        return top.product * factor
    return top.product / factor if factor else None


def read_all(tokens: Sequence[Token], partial: Partial = EMPTY) -> Partial | None:
    """Append tokens to a partial formula. None if the result is malformed or divides by zero."""
    current: Partial | None = partial
    for token in tokens:
        if current is None:
            return None
        current = read(current, token)
    return current


def exact_value(tokens: Sequence[Token]) -> Fraction | None:
    """The value of a formula, or None if it is malformed or divides by zero.

    Two numbers in a row, `**`, `//` and a bracket right after a number are malformed.
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
    """All ordered pairs of non-empty hands that sorted cards can be split into, each pair once."""
    places = range(len(cards))
    parts = {
        (tuple(cards[i] for i in chosen), tuple(cards[i] for i in places if i not in chosen))
        for size in range(1, len(cards))
        for chosen in combinations(places, size)
    }
    return tuple(sorted(parts))


@cache
def values(cards: Cards) -> frozenset[Fraction]:
    """Every value that sorted cards can make if each is used once, with `+ - * /` and brackets."""
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
    """Expressions of sorted cards with a value, each with its kind: the shortest of each kind, or all of them."""
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
    """All (operator, a, b) with `a operator b == value`, where `left` can make a and `right` can make b."""
    # Enumerate the values of the smaller hand and solve for the other operand.
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
    """The shortest expression of all cards with this value, without signs before factors; None if there is none."""
    made = _express(tuple(sorted(cards)), Fraction(value))
    return min((text for _, text in made), key=_key, default=None)


# --- completion of a partial formula ----------------------------------------------------------------------------------
#
# At each open level, a partial formula continues with more factors of the current product, then more terms, then the
# closing bracket. A run of factors multiplies or divides by a value of its cards (or by the negative of that value); a
# run of terms adds or subtracts one. So it is enough to distribute the cards over these runs. The value of the last run
# follows from the target.

_FLIPPED_TERMS: dict[Token, str] = {"+": "-", "-": "+"}
_FLIPPED_FACTORS: dict[Token, str] = {"*": "/", "/": "*"}


def _last_values(partial: Partial, left: Cards, target: Fraction) -> Collection[Fraction]:
    """The values which make `target` if all cards left form one factor and every bracket closes right after it."""
    for frame in partial.frames:
        lacking = target - frame.total
        if not frame.product:  # a product with zero stays zero, whatever the factor
            return () if lacking else values(left)
        if frame.divide and not lacking:
            return ()
        target = frame.product / lacking if frame.divide else lacking / frame.product
    return (target,)


class Goal(NamedTuple):
    """The value to make, and whether every way to write a run is wanted, not only the shortest."""

    value: Fraction
    every: bool


def completions(
    tokens: Sequence[Token], left: Sequence[int], target: int | Fraction, every: bool = False
) -> Iterator[Tokens]:
    """Continuations of a formula that use each card in `left` once and make `target`, in no particular order.

    At least one is found if there are any. If several ways to write a run have the same cards and value, only the
    shortest is used; with `every`, all of them.
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
    """Continuations after a factor: the end of its product, or more factors first."""
    yield from _after_product(partial, left, goal)
    for sign in "*/":
        begun = read(partial, sign)
        for run, after, others in _factors(begun, left, goal) if begun else ():
            for rest in _after_product(after, others, goal):
                yield (sign, *run, *rest)


def _after_product(partial: Partial, left: Cards, goal: Goal) -> Iterator[Tokens]:
    """Continuations after a product: the end of its level, or more terms first."""
    yield from _after_level(partial, left, goal)
    for sign in "+-":
        begun = read(partial, sign)
        for run, after, others in _terms(begun, left, goal) if begun else ():
            for rest in _after_level(after, others, goal):
                yield (sign, *run, *rest)


def _after_level(partial: Partial, left: Cards, goal: Goal) -> Iterator[Tokens]:
    """Continuations after a complete level: the closing bracket, or nothing if the formula is complete."""
    if len(partial.frames) > 1:
        closed = read(partial, ")")
        for rest in _after_factor(closed, left, goal) if closed else ():
            yield (")", *rest)
    elif not left and _fold(partial) == goal.value - partial.frames[0].total:
        yield ()


Run = tuple[Tokens, Partial, Cards]


def _factors(partial: Partial, left: Cards, goal: Goal) -> Iterator[Run]:
    """Runs of factors where a factor must follow: (tokens, the formula after them, the cards still left)."""
    negated = read(partial, "-")
    assert negated is not None
    flip = _FLIPPED_FACTORS if partial.frames[-1].divide else {}
    for signs, begun in (((), partial), (("-",), negated)):
        for text, after, others in _runs(begun, left, goal, PRODUCT, flip):
            yield (*signs, *text), after, others


def _terms(partial: Partial, left: Cards, goal: Goal) -> Iterator[Run]:
    """Runs of terms where a factor must follow."""
    flip = _FLIPPED_TERMS if partial.frames[-1].product < 0 else {}
    yield from _runs(partial, left, goal, SUM, flip)


def _runs(partial: Partial, left: Cards, goal: Goal, loosest: int, flip: Mapping[Token, str]) -> Iterator[Run]:
    """Values of some of the cards, written without outer brackets for expressions of kind `loosest`.

    `flip` exchanges the operators of a run that is subtracted or divided by: - (a + b) is written as - a - b.
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
    """Exchange the operators that stand outside brackets."""
    depth, changed = 0, []
    for token in tokens:
        depth += (token == "(") - (token == ")")
        changed.append(token if depth else flip.get(token, token))
    return tuple(changed)


@lru_cache(maxsize=50_000)
def complete(tokens: Tokens, left: Cards, target: int, budget: int) -> Tokens | None:
    """A short continuation of at most `budget` tokens that makes `target` (above 0) with all cards left, or None."""
    cards = (*left, *(token for token in tokens if isinstance(token, int)))
    plain = express(cards, target)
    if plain is None:  # signs before factors make no further positive value
        return None
    # Keep to the shortest expression as long as the formula does: a player who follows the solver sees one plan.
    if plain[: len(tokens)] == tokens:
        found: Tokens | None = plain[len(tokens) :]
    else:
        found = min(completions(tokens, left, target), key=_key, default=None)
    return None if found is None or len(found) > budget else found

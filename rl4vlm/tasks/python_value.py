"""What Python's `eval` would make of a formula, computed without running it and in bounded time."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

MAX_INT_BITS = 4096
"""Powers with more bits are not computed: no four cards could bring one back to 24."""

MAX_TEXT = 200


class Refused(ValueError):
    """The text is not arithmetic, or would take too long to compute."""


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
    """The value of an arithmetic text in Python, or None if `eval` would raise or the text is not arithmetic.

    Numbers, `+ - * / // **`, signs and brackets are computed from the syntax tree. Anything else gives None, and so
    does a power of more than `MAX_INT_BITS` bits.
    """
    text = text.lstrip(" \t")
    if len(text) > MAX_TEXT:
        return None
    try:
        result: int | float | complex = _evaluate(ast.parse(text, mode="eval").body)
    # TypeError: complex numbers, which powers of negative numbers make, have no floor division. ValueError: `Refused`,
    # or a character that Python's parser cannot encode.
    except (SyntaxError, ValueError, ArithmeticError, TypeError):
        return None
    return result

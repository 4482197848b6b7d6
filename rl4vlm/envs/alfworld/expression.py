"""Evaluates the expressions in a game's grammar, such as `o.indefinite + ' ' + o.name`, without running code.

A game file comes from anyone, and TextWorld gives its expressions to `eval`, from where attributes lead to everything.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache
from typing import Any


def check_expression(text: str) -> None:
    """Raise ValueError, with the text, if an expression has more than names, texts, attributes, `+` and `or`."""
    _parsed(text)


def expression_value(text: str, names: Mapping[str, Any]) -> Any:
    """The value of an expression.

    Args:
        text: the expression, as `check_expression` allows it.
        names: the game's objects by name. Only the attributes in their `__slots__` can be read.

    Raises:
        ValueError: the expression is not allowed, or there is no such name or attribute.
    """

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name() if node.id in names:
                return names[node.id]
            case ast.Attribute(value=ast.Name(id=name)) if name in names and node.attr in names[name].__slots__:
                return getattr(names[name], node.attr)
            case ast.BinOp():
                return value(node.left) + value(node.right)
            case ast.BoolOp():
                return next(filter(None, map(value, node.values)), None)
        raise ValueError(f"the grammar's expression {text!r} names {ast.unparse(node)!r}, which no object has")

    try:
        return value(_parsed(text))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the grammar's expression {text[:80]!r} cannot be computed: {error}") from error


@lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.expr:
    try:
        parsed = ast.parse(text.strip(), mode="eval").body
    # What is nested too deeply exceeds the parser's memory or Python's recursion limit.
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"the grammar's expression {text[:80]!r} cannot be read") from error
    for node in ast.walk(parsed):
        match node:
            case ast.Constant(value=str()) | ast.Name() | ast.BinOp(op=ast.Add()) | ast.BoolOp(op=ast.Or()):
                pass
            case ast.Attribute(value=ast.Name()) | ast.expr_context() | ast.operator() | ast.boolop():
                pass
            case _:
                raise ValueError(
                    f"the grammar's expression {text!r} is not allowed: it may have names, their attributes, texts, "
                    "+ and 'or'"
                )
    return parsed

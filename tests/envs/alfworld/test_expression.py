"""Expressions in the grammars of games."""

from __future__ import annotations

import pytest

from rl4vlm.envs.alfworld.expression import expression_value


class Thing:
    __slots__ = ("id", "indefinite", "name")

    def __init__(self) -> None:
        self.id, self.indefinite, self.name = "mug_1", "a", ""


@pytest.mark.parametrize(
    ("text", "value"),
    [("o.indefinite + ' ' + o.id ", "a mug_1"), ("o.name or o.id", "mug_1"), ("'x'", "x"), ("o.name", "")],
)
def test_names_texts_and_sums_have_a_value(text: str, value: str) -> None:
    assert expression_value(text, {"o": Thing()}) == value


@pytest.mark.parametrize("text", ["o.__class__", "o.__slots__", "o.size", "r.name", "len", "o.__init__"])
def test_only_the_objects_own_attributes_can_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="which no object has"):
        expression_value(text, {"o": Thing()})


@pytest.mark.parametrize("text", ["o.id.upper()", "o[0]", "1", "'a' * 9", "[o]", "o if o else o", "", "o.", "\0"])
def test_other_python_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not allowed|cannot be read"):
        expression_value(text, {"o": Thing()})


@pytest.mark.parametrize("text", ["o + 'x'", " + ".join(["'a'"] * 20_000), "(" * 5_000 + "'a'" + ")" * 5_000])
def test_what_cannot_be_computed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        expression_value(text, {"o": Thing()})

"""The picture of the rule graph: columns, bends and what is left out."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from rl4vlm.rulepage.graph import depths, draw, layout, reduced

CHAIN = [("a", "b"), ("b", "c"), ("c", "d")]


def test_an_edge_that_follows_from_others_is_left_out() -> None:
    assert reduced([*CHAIN, ("a", "c"), ("a", "d"), ("x", "d")]) == {*CHAIN, ("x", "d")}


def test_rules_that_need_each_other_are_refused() -> None:
    for edges in ([*CHAIN, ("d", "b")], [("a", "a")]):
        with pytest.raises(ValueError, match="need each other"):
            reduced(edges)


def test_each_rule_is_as_far_right_as_those_that_need_it_allow() -> None:
    assert depths([*CHAIN, ("x", "d"), ("b", "y")]) == {"a": 3, "b": 2, "c": 1, "d": 0, "x": 1, "y": 0}
    placed = layout([*CHAIN, ("x", "d"), ("b", "y")])
    assert [{name for name in column if "@" not in name} for column in placed.columns] == [
        {"a"},
        {"b"},
        {"c", "x"},
        {"d", "y"},
    ]
    # Two columns on: it bends where it passes the third.
    assert placed.routes["b", "y"] == ("b", "b>y@2", "y")
    assert "b>y@2" in placed.columns[2]


def crossings(edges: list[tuple[str, str]]) -> int:
    placed = layout(edges)
    count = 0
    for left, right in zip(placed.columns, placed.columns[1:], strict=False):
        steps = [pair for route in placed.routes.values() for pair in itertools.pairwise(route)]
        lines = [(left.index(a), right.index(b)) for a, b in steps if a in left and b in right]
        count += sum((a - c) * (b - d) < 0 for a, b in lines for c, d in lines) // 2
    return count


def test_an_order_without_crossings_is_found() -> None:
    # Named so that the alphabet crosses them all.
    assert crossings([("a", "z"), ("b", "y"), ("c", "x"), ("z", "end"), ("y", "end"), ("x", "end")]) == 0


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    labels = {"a": "a", "b": "b\nand c", "d": "d"}
    for name, edges in (("one.svg", [("a", "b"), ("b", "d")]), ("two.svg", [("b", "d"), ("a", "b")])):
        draw(edges, labels, dashed=["d"], out=tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert (tmp_path / "two.svg").read_text() == text
    assert text.count("stroke-dasharray") == 1
    assert "<dc:date>" not in text

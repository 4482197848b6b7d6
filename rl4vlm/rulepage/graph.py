"""Draws a rule graph in columns, each rule as far right as those that need it allow.

Graphviz does this better, but is a program that not everyone has. The steps are Sugiyama's: columns, bends where an
edge passes a column, an order in each column that keeps edges short.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

Edge = tuple[str, str]
"""(needed, needing): what is made first comes first."""

SWEEPS = 12
LINE = 0.17
"""Inches of a line of text, with its lead."""
GAP = 0.16
COLUMN = 1.75
BOX = 1.32


@dataclass(frozen=True)
class Layout:
    """Where things are: `columns` from left to right, each from top to bottom; a bend is in it as `needed>needing@n`.

    `routes` are the places that each edge goes through, its ends included.
    """

    columns: tuple[tuple[str, ...], ...]
    routes: Mapping[Edge, tuple[str, ...]]


def reduced(edges: Iterable[Edge]) -> set[Edge]:
    """The edges that do not follow from others. Raises ValueError where they go round in a circle."""
    edges = set(edges)
    after = {first: {later for start, later in edges if start == first} for first, _ in edges}
    depths(edges)
    return {(a, b) for a, b in edges if not any(_reaches(middle, b, after) for middle in after[a] - {b})}


def _reaches(start: str, end: str, after: Mapping[str, set[str]]) -> bool:
    return start == end or any(_reaches(step, end, after) for step in after.get(start, ()))


def depths(edges: Iterable[Edge]) -> dict[str, int]:
    """How many steps at most come after each rule. Raises ValueError where edges go round in a circle."""
    edges = set(edges)
    names = {name for edge in edges for name in edge}
    found = dict.fromkeys(names, 0)
    for _ in range(len(names) + 1):
        longer = {a: found[b] + 1 for a, b in sorted(edges, key=lambda edge: found[edge[1]]) if found[b] + 1 > found[a]}
        if not longer:
            return found
        found |= longer
    raise ValueError(f"rules need each other: {', '.join(sorted(names))}")


def layout(edges: Iterable[Edge]) -> Layout:
    """Columns, bends and the order in each column; the same for the same edges."""
    edges = sorted(set(edges))
    after = depths(edges)
    last = max(after.values(), default=0)
    columns: list[list[str]] = [[] for _ in range(last + 1)]
    for name in sorted(after):
        columns[last - after[name]].append(name)
    routes: dict[Edge, tuple[str, ...]] = {}
    for a, b in edges:
        between = range(last - after[a] + 1, last - after[b])
        bends = [f"{a}>{b}@{column}" for column in between]
        for column, bend in zip(between, bends, strict=True):
            columns[column].append(bend)
        routes[a, b] = (a, *bends, b)
    steps = [pair for route in routes.values() for pair in itertools.pairwise(route)]
    for sweep in range(SWEEPS):
        _sweep(columns, steps, forward=sweep % 2 == 0)
    return Layout(tuple(map(tuple, columns)), routes)


def _sweep(columns: list[list[str]], steps: Sequence[Edge], *, forward: bool) -> None:
    """Sort each column by the mean height of the neighbours in the column before it, or behind it."""
    order = columns if forward else columns[::-1]
    for before, column in itertools.pairwise(order):
        height = {name: place / max(len(before) - 1, 1) for place, name in enumerate(before)}
        own = {name: place / max(len(column) - 1, 1) for place, name in enumerate(column)}
        near: dict[str, list[float]] = {name: [] for name in column}
        for a, b in steps:
            here, there = (b, a) if forward else (a, b)
            if here in near and there in height:
                near[here].append(height[there])
        column.sort(key=lambda name: (sum(near[name]) / len(near[name]) if near[name] else own[name], own[name], name))


def draw(edges: Iterable[Edge], labels: Mapping[str, str], dashed: Iterable[str], out: Path) -> None:
    """Draw the graph as an SVG file, without dates, so that the same rules give the same bytes.

    Args:
        edges: pairs (needed, needing); those that follow from others are left out.
        labels: the text of each box, in lines.
        dashed: the boxes with a dashed frame.
        out: file to write.
    """
    placed = layout(reduced(edges))
    dashed = set(dashed)
    heights = [sum(_height(name, labels) + GAP for name in column) for column in placed.columns]
    width, height = COLUMN * len(placed.columns), max(heights) + GAP
    centres: dict[str, tuple[float, float]] = {}
    for number, (column, total) in enumerate(zip(placed.columns, heights, strict=True)):
        top = height / 2 + total / 2
        for name in column:
            centres[name] = ((number + 0.5) * COLUMN, top - (_height(name, labels) + GAP) / 2)
            top -= _height(name, labels) + GAP
    with matplotlib.rc_context({"svg.hashsalt": "rules", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(0, height))
        axes.axis("off")
        for route in placed.routes.values():
            axes.add_patch(_arrow([centres[name] for name in route]))
        for name, text in labels.items():
            if name in centres:
                _box(axes, centres[name], _height(name, labels), text, name in dashed)
        out.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasSVG(figure).print_svg(str(out), metadata={"Date": None, "Creator": None})


def _height(name: str, labels: Mapping[str, str]) -> float:
    """Inches; a bend is a line high."""
    return LINE * (labels[name].count("\n") + 1) + 0.14 if name in labels else LINE / 2


def _arrow(points: Sequence[tuple[float, float]]) -> FancyArrowPatch:
    """From the right side of the first box to the left side of the last, level at both ends and at each bend."""
    (x, y), *_, (end, low) = points
    # A bend is as long as a box is wide, so that an arrow passes beside the boxes of its column.
    bends = [(across + side, level) for across, level in points[1:-1] for side in (-BOX / 2, BOX / 2)]
    stops = [(x + BOX / 2, y), *bends, (end - BOX / 2 - 0.02, low)]
    vertices, codes = [stops[0]], [Curve.MOVETO]
    for (left, high), (right, deep) in itertools.pairwise(stops):
        middle = (left + right) / 2
        vertices += [(middle, high), (middle, deep), (right, deep)]
        codes += [Curve.CURVE4] * 3
    style = "-|>,head_length=3,head_width=1.6"
    return FancyArrowPatch(path=Curve(vertices, codes), arrowstyle=style, color="#8a8a8a", linewidth=0.9, zorder=1)


def _box(axes: matplotlib.axes.Axes, centre: tuple[float, float], height: float, text: str, dashed: bool) -> None:
    x, y = centre
    axes.add_patch(
        FancyBboxPatch(
            (x - BOX / 2 + 0.05, y - height / 2 + 0.05),
            BOX - 0.1,
            height - 0.1,
            boxstyle="round,pad=0.05",
            facecolor="#eef3f8",
            edgecolor="#0072B2",
            linestyle="--" if dashed else "-",
            linewidth=1.0,
            zorder=2,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=8, linespacing=1.25, zorder=3)

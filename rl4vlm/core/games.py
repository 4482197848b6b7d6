"""The names of evaluations on the further sets of games of a task."""

from __future__ import annotations

GAMES_MARK = "@"
"""Stands before the name of a set of games. The first set of a task has no mark and no name."""


def name_on(evaluation: str, games: str) -> str:
    """The name of an evaluation on a further set of games, from its name on the first set."""
    return f"{evaluation}{GAMES_MARK}{games}"

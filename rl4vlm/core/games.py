"""The names of tasks, and of evaluations on the further sets of games of a task."""

from __future__ import annotations

GAMES_MARK = "@"
"""Stands before the name of a set of games. The first set of a task has no mark and no name."""

NOT_IN_TASK_NAMES = rf"-/{GAMES_MARK}=\x7b\x7d"
"""The characters that the name of a task must not contain, as they stand in the brackets of a regular expression. Names
of runs and options such as `TASK=FILE` are made with them, and Snakemake takes braces for wildcards."""


def name_on(evaluation: str, games: str) -> str:
    """The name of an evaluation on a further set of games, from its name on the first set."""
    return f"{evaluation}{GAMES_MARK}{games}"

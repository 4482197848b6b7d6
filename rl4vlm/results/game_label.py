"""How results say which games they are of, where games are data: in tables, in figures and on the screen alike."""

from __future__ import annotations

from collections.abc import Iterable


def games_played(sources: Iterable[str], games: str | None = None) -> str | None:
    """The games of `sources`, in words; None without any.

    Args:
        sources: what `Task.data_source` said of the episodes: `generated`, or `official, drawn pictures`.
        games: which set of them was played, where there are several (`seen`).

    Returns:
        `generated games, seen`, or `official games, drawn pictures, seen`.
    """
    named = [
        f"{kind} games{comma}{more}" for kind, comma, more in (each.partition(",") for each in sorted(set(sources)))
    ]
    return ", ".join([" and ".join(named), *([games] if games else [])]) if named else None

"""Says in words which games were played, for tasks whose games are data."""

from __future__ import annotations

from collections.abc import Iterable


def games_played(sources: Iterable[str], games: str | None = None) -> str | None:
    """Which games were played, e.g. `official games, drawn pictures, seen`.

    Args:
        sources: the values of `Task.data_source` over the episodes: `generated`, or `official, drawn pictures`.
        games: the set of games that was played, if there are several (`seen`).

    Returns:
        The words. Without any source, as for tasks whose games are not data, the set's name alone, or None.
    """
    parts = (source.partition(",") for source in sorted(set(sources)))
    named = [f"{kind} games{comma}{rest}" for kind, comma, rest in parts]
    return ", ".join([*([" and ".join(named)] if named else []), *([games] if games else [])]) or None

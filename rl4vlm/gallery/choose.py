"""Chooses the episodes that the gallery shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any


def choose(episodes: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Choose at most `count` episodes, with about as many of each kind, and sort them by number.

    The kinds are: won without a fallback, lost without a fallback, with a fallback. The first episodes of each kind are
    chosen. If one kind has too few, the others fill up.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {"won": [], "lost": [], "fallback": []}
    for episode in episodes:
        kinds["fallback" if episode["fallbacks"] else "won" if episode["success"] else "lost"].append(episode)
    in_turn = [episode for episode in chain.from_iterable(zip_longest(*kinds.values())) if episode is not None]
    return sorted(in_turn[:count], key=lambda episode: episode["episode"])

"""Which episodes of an evaluation the gallery shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any


def choose(episodes: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """At most `count` episodes, in order: the first ones of each kind, as many of each kind as there are.

    The kinds are: with a fallback, won without one, lost without one.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {"won": [], "lost": [], "fallback": []}
    for episode in episodes:
        kinds["fallback" if episode["fallbacks"] else "won" if episode["success"] else "lost"].append(episode)
    in_turn = [episode for episode in chain.from_iterable(zip_longest(*kinds.values())) if episode is not None]
    return sorted(in_turn[:count], key=lambda episode: episode["episode"])

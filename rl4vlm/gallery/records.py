"""Finished evaluations as their folders hold them, and which of their episodes are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from rl4vlm.core.files import RECORD, read_json, read_json_lines
from rl4vlm.core.types import Style

EPISODES, SUMMARY = "episodes.jsonl", "summary.json"
ENTRIES = ("episode", "seed", "success", "return", "length", "fallbacks", "steps")
STEP_ENTRIES = ("action", "reward", "outcome", "fallback", "reply")


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation: what was played and how (`run.json`), what came of it (`summary.json`), every episode.

    `env` and `prompt` are the evaluation's settings of that name; `episodes` the lines of `file`.
    """

    file: Path
    task: str
    style: Style
    env: Mapping[str, Any]
    prompt: Mapping[str, str]
    summary: Mapping[str, Any]
    episodes: tuple[Mapping[str, Any], ...]

    @property
    def name(self) -> str:
        return self.file.parent.name


def read_evaluation(folder: Path) -> Evaluation:
    """Read the folder of an evaluation. Raises ValueError naming a file that is missing, broken or incomplete."""
    settings = _entries(read_json(folder / RECORD), ("settings",), folder / RECORD)["settings"]
    settings = _entries(settings, ("task", "style"), folder / RECORD)
    summary = _entries(read_json(folder / SUMMARY), ("method",), folder / SUMMARY)
    file = folder / EPISODES
    return Evaluation(
        file=file,
        task=settings["task"],
        style=Style(settings["style"]),
        env=settings.get("env") or {},
        prompt=settings.get("prompt") or {},
        summary=summary,
        episodes=tuple(_episode(found, place) for place, found in read_json_lines(file)),
    )


def choose(episodes: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """At most `count` episodes, in order: the first ones of each kind, as many of each kind as there are.

    The kinds are: with a fallback, won without one, lost without one.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {"won": [], "lost": [], "fallback": []}
    for episode in episodes:
        kinds["fallback" if episode["fallbacks"] else "won" if episode["success"] else "lost"].append(episode)
    in_turn = [episode for episode in chain.from_iterable(zip_longest(*kinds.values())) if episode is not None]
    return sorted(in_turn[:count], key=lambda episode: episode["episode"])


def _episode(found: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    episode = _entries(found, ENTRIES, place)
    for step in episode["steps"]:
        _entries(step, STEP_ENTRIES, place)
    return episode


def _entries(found: Mapping[str, Any], names: Sequence[str], place: Path | str) -> Mapping[str, Any]:
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{place} has no {missing[0]!r}")
    return found

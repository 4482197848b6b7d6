"""Finished evaluations as their folders hold them, and which of their episodes are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from rl4vlm.core.runlog import RECORD
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
    settings = _entries(_object(folder / RECORD), ("settings",), folder / RECORD)["settings"]
    settings = _entries(settings, ("task", "style"), folder / RECORD)
    summary = _entries(_object(folder / SUMMARY), ("method",), folder / SUMMARY)
    file = folder / EPISODES
    return Evaluation(
        file=file,
        task=settings["task"],
        style=Style(settings["style"]),
        env=settings.get("env") or {},
        prompt=settings.get("prompt") or {},
        summary=summary,
        episodes=tuple(
            _episode(line, f"{file}, line {number}") for number, line in enumerate(_lines(file), start=1) if line
        ),
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


def _episode(line: str, place: str) -> Mapping[str, Any]:
    episode = _entries(_parsed(line, place), ENTRIES, place)
    for step in episode["steps"]:
        _entries(step, STEP_ENTRIES, place)
    return episode


def _object(file: Path) -> Mapping[str, Any]:
    return _parsed(_text(file), str(file))


def _lines(file: Path) -> list[str]:
    # Not splitlines: a reply may hold line separators that JSON does not escape.
    return _text(file).split("\n")


def _text(file: Path) -> str:
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    return file.read_text(encoding="utf-8")


def _parsed(text: str, place: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{place} is no JSON object")
    return found


def _entries(found: Mapping[str, Any], names: Sequence[str], place: Path | str) -> Mapping[str, Any]:
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{place} has no {missing[0]!r}")
    return found

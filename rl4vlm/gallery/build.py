"""The gallery: a few episodes of every evaluation, with what the player saw, was asked, wrote and earned by it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.core.files import RECORD, atomic_write_text
from rl4vlm.core.progress import progress
from rl4vlm.core.types import Step
from rl4vlm.gallery.images import MIME, ImageTable
from rl4vlm.gallery.page import build_page
from rl4vlm.gallery.records import EPISODES, STEP_ENTRIES, SUMMARY, Evaluation, choose, read_evaluation
from rl4vlm.gallery.replay import Replayed, replay
from rl4vlm.results.game_label import games_played
from rl4vlm.results.provenance import write_run_record

PAGE = "index.html"
SHOWN_TOTALS = ("kind", "lambda", "seed", "episodes", "success_rate", "ci_low", "ci_high", "mean_return")


def build_gallery(*, evaluations: Sequence[Path], scale: str, out: Path, settings: GallerySettings) -> Path:
    """Write `index.html` to the folder `out`, one file that needs no other and no network, and `run.json` about it.

    Args:
        evaluations: folders of evaluations, in the order that the page lists them in.
        scale: label of these results.
        out: folder to write to.
        settings: see there.

    Returns:
        The file.

    Raises:
        ValueError: there is no evaluation, one lacks a file, or a record does not replay as it was played.
    """
    if not evaluations:
        raise ValueError("the gallery has no evaluation to show")
    started = time.monotonic()
    read = [read_evaluation(folder) for folder in evaluations]
    file = out / PAGE
    atomic_write_text(file, build_page(gallery_data(read, scale, settings)))
    files = [folder / name for folder in evaluations for name in (EPISODES, RECORD, SUMMARY)]
    write_run_record(
        out,
        stage="gallery",
        settings={"scale": scale, **vars(settings)},
        seeds={},
        inputs={f"{path.parent.name}/{path.name}": path for path in files},
        seconds=time.monotonic() - started,
    )
    return file


def gallery_data(evaluations: Sequence[Evaluation], scale: str, settings: GallerySettings) -> dict[str, Any]:
    """What the page is given: `runs` with their episodes, and the tables of `pictures` and `prompts` they refer to."""
    images, prompts = ImageTable(), _TextTable()
    runs = []
    with progress(len(evaluations), "gallery", unit="evaluation") as bar:
        for evaluation, label in zip(evaluations, labels(evaluations), strict=True):
            chosen = choose(evaluation.episodes, settings.episodes)
            runs.append(
                {
                    "name": evaluation.name,
                    "task": evaluation.task,
                    "label": label,
                    "style": evaluation.style.value,
                    "totals": _totals(evaluation.summary),
                    "episodes": [_episode(played, images, prompts) for played in replay(evaluation, chosen)],
                }
            )
            bar.update(1)
    return {"scale": scale, "mime": MIME, "runs": runs, "pictures": images.entries, "prompts": prompts.texts}


def _totals(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the page tells of an evaluation; `games` in words, None for games that are rules."""
    played = games_played(summary.get("data_sources") or (), summary.get("games"))
    return {**{name: summary.get(name) for name in SHOWN_TOTALS}, "games": played}


def labels(evaluations: Sequence[Evaluation]) -> list[str]:
    """What each evaluation is called within its task: its method and, where that is not enough, what tells it apart."""
    details: tuple[tuple[str, Callable[[Evaluation], Hashable]], ...] = (
        (", lambda {}", lambda run: run.summary.get("lambda")),
        (", seed {}", lambda run: run.summary.get("seed")),
        (" ({})", lambda run: run.name),
    )
    named = [run.summary["method"] for run in evaluations]
    for text, detail in details:
        shared = Counter((run.task, name) for run, name in zip(evaluations, named, strict=True))
        values: dict[tuple[str, str], set[Hashable]] = {}
        for run, name in zip(evaluations, named, strict=True):
            values.setdefault((run.task, name), set()).add(detail(run))
        named = [
            name + text.format(detail(run)) if shared[run.task, name] > 1 and len(values[run.task, name]) > 1 else name
            for run, name in zip(evaluations, named, strict=True)
        ]
    return named


class _TextTable:
    """Numbered texts, each stored once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def add(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def texts(self) -> list[str]:
        return list(self._numbers)


def _episode(played: Replayed, images: ImageTable, prompts: _TextTable) -> dict[str, Any]:
    record, first = played.record, played.steps[0].request.image
    return {
        "number": record["episode"],
        "seed": record["seed"],
        "won": record["success"],
        "return": record["return"],
        "fallbacks": record["fallbacks"],
        "cut": played.steps[-1].truncated and not played.steps[-1].terminated,
        "steps": [
            {
                "picture": images.add(step.request.image, first),
                "prompt": prompts.add(step.request.prompt),
                **_step(step, entry),
            }
            for step, entry in zip(played.steps, record["steps"], strict=True)
        ],
        "last": images.add(played.last_image, first),
    }


def _step(step: Step, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The reply in two parts, at the action's key: offsets would mean something else in the page's language."""
    text = step.reply.text
    key = step.parsed.action_span[0] if step.parsed.action_span else len(text)
    return {
        "thoughts": text[:key],
        "key": text[key:],
        "action": step.action,
        "reward": step.reward,
        "outcome": str(step.parsed.outcome),
        "fallback": step.fallback,
        "numbers": {name: value for name, value in entry.items() if name not in STEP_ENTRIES},
    }

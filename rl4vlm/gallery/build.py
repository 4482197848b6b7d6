"""Builds the gallery page: sample episodes of every evaluation with images, prompts, replies and rewards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.core.files import RECORD, atomic_write_text
from rl4vlm.core.output import stage_output
from rl4vlm.core.progress import progress
from rl4vlm.core.types import Step
from rl4vlm.gallery.choose import choose
from rl4vlm.gallery.images import MIME, ImageTable
from rl4vlm.gallery.page import build_page
from rl4vlm.gallery.replay import Replayed, replay
from rl4vlm.results.game_label import games_played
from rl4vlm.results.provenance import EPISODES, SUMMARY, inputs_now, write_run_record
from rl4vlm.results.read import STEP_ENTRIES, Recording, load_recording

PAGE = "index.html"
SHOWN_TOTALS = ("kind", "lambda", "seed", "episodes", "success_rate", "ci_low", "ci_high", "mean_return")


def build_gallery(*, evaluations: Sequence[Path], scale: str, out: Path, settings: GallerySettings) -> Path:
    """Write the gallery page, a single HTML file that loads nothing else, and its `run.json`.

    Args:
        evaluations: folders of evaluations, in the order in which the page lists them.
        scale: name of the config's scale, shown on the page.
        out: folder to write to.
        settings: how many episodes to show.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: there is no evaluation, a file is missing, or an episode does not replay as recorded.
    """
    if not evaluations:
        raise ValueError("the gallery has no evaluation to show")
    started = time.monotonic()
    files = [folder / name for folder in evaluations for name in (EPISODES, RECORD, SUMMARY)]
    inputs = inputs_now({f"{path.parent.name}/{path.name}": path for path in files})
    read = [load_recording(folder) for folder in evaluations]
    with stage_output(out, ["gallery"], [PAGE]) as draft:
        atomic_write_text(draft / PAGE, build_page(gallery_data(read, scale, settings)))
        write_run_record(
            draft,
            stage="gallery",
            settings={"scale": scale, **vars(settings)},
            seeds={},
            inputs=inputs,
            seconds=time.monotonic() - started,
        )
    return out / PAGE


def gallery_data(evaluations: Sequence[Recording], scale: str, settings: GallerySettings) -> dict[str, Any]:
    """The page's data: `runs` with their episodes, and the `images` and `prompts` that the steps refer to by index."""
    images, prompts = ImageTable(), _TextTable()
    runs = []
    with progress(len(evaluations), "gallery", unit="evaluation") as bar:
        for evaluation, label in zip(evaluations, run_labels(evaluations), strict=True):
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
    return {"scale": scale, "mime": MIME, "runs": runs, "images": images.entries, "prompts": prompts.texts}


def _totals(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that the page shows about an evaluation. `games` is None for tasks whose games are not data."""
    played = games_played(summary.get("data_sources") or (), summary.get("games"))
    return {**{name: summary.get(name) for name in SHOWN_TOTALS}, "games": played}


def run_labels(evaluations: Sequence[Recording]) -> list[str]:
    """A label for each evaluation, unique within its task: the method, then lambda, seed and run name as needed."""
    details: tuple[tuple[str, Callable[[Recording], Hashable]], ...] = (
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
    """Stores each text once. Steps refer to texts by index."""

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
                "image": images.add(step.request.image, first),
                "prompt": prompts.add(step.request.prompt),
                **_step(step, entry),
            }
            for step, entry in zip(played.steps, record["steps"], strict=True)
        ],
        "last": images.add(played.last_image, first),
    }


def _step(step: Step, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A step for the page. The reply is split at the action's key."""
    # Send the two parts, not an offset: JavaScript counts UTF-16 units, Python counts code points.
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

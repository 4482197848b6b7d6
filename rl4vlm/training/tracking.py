"""Optional metric trackers, TensorBoard and Weights & Biases, by way of accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from rl4vlm.core.files import jsonable
from rl4vlm.core.types import Step
from rl4vlm.results.provenance import PACKAGE

TRACKERS: dict[str, Callable[[Path, Any], GeneralTracker]] = {
    # Event files go to `folder`/tensorboard.
    "tensorboard": lambda folder, settings: TensorBoardTracker("tensorboard", folder),
    # The project is named after the package, and the run after its folder.
    "wandb": lambda folder, settings: WandBTracker(
        PACKAGE, name=folder.name, dir=str(folder), config=jsonable(settings)
    ),
}
"""How each tracker is made for a run's folder and settings."""


class Track:
    """Sends a training's metrics and validation episodes to its trackers."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def __call__(self, line: Mapping[str, Any], step: int) -> None:
        """Log the numbers in a line of metrics at a step. Other values are left out."""
        self._accelerator.log(_numbers(line), step=step)

    def episode(self, name: str, steps: Sequence[Step], step: int) -> None:
        """Log an episode: the image of each step, with the reply, the action and the reward.

        Args:
            name: under which the trackers show it.
            steps: all of its steps, in order.
            step: environment steps of the training so far.
        """
        images = [played.request.image for played in steps]
        texts = [f"{played.reply.text}\n\n{played.action}: reward {played.reward:g}" for played in steps]
        for tracker in self._accelerator.trackers:
            _log_episode(tracker, name, images, texts, step)


def _log_episode(
    tracker: GeneralTracker, name: str, images: Sequence[np.ndarray], texts: Sequence[str], step: int
) -> None:
    if isinstance(tracker, WandBTracker):
        import wandb

        shown = [wandb.Image(image, caption=text) for image, text in zip(images, texts, strict=True)]
        tracker.log({name: shown}, step=step)
    else:
        # TensorBoard tiles the images, eight per row, and shows a text as Markdown.
        tracker.log_images({name: np.stack(images)}, step=step, dataformats="NHWC")
        tracker.log({f"{name}/text": "\n\n---\n\n".join(texts)}, step=step)


@contextmanager
def metric_trackers(accelerator: Accelerator, loggers: Sequence[str], folder: Path, settings: Any) -> Iterator[Track]:
    """Send metrics to the trackers that were asked for. Only the main process does.

    Args:
        accelerator: of the training; its trackers are these for as long as the block lasts.
        loggers: any of `TRACKERS`.
        folder: the run's folder.
        settings: the run's settings, which Weights & Biases records.

    Yields:
        A `Track`, which logs to these trackers.

    Raises:
        ValueError: a logger is unknown, or its package is not installed.
    """
    for name in loggers:
        if name not in TRACKERS:
            raise ValueError(f"no metric logger {name!r}; there are {', '.join(TRACKERS)}")
        # Accelerate skips a tracker without its package and says nothing.
        if not _installed(name):
            raise ValueError(f"metric logger {name!r} needs its package: pip install {name}")
    accelerator.log_with = [TRACKERS[name](folder, settings) for name in loggers]
    accelerator.trackers = []  # those of an earlier training are closed
    accelerator.init_trackers(PACKAGE)
    try:
        yield Track(accelerator)
    finally:
        # Not `end_training`: it also ends the process group, and the checkpoint is still to be gathered.
        for tracker in accelerator.trackers:
            tracker.finish()


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # the package was imported but has no spec
        return True


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    # A bool is an int to Python, but not a metric.
    return {
        name: float(value)
        for name, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }

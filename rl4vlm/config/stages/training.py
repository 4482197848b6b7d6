"""Settings of every training: where and how it runs."""

from __future__ import annotations

from typing import Literal

from rl4vlm.config.fields import Device, Positive, settings


@settings
class SavedByTime:
    """How often a run saves its state."""

    save_minutes: Positive = 30.0
    """Minutes between two saves of the run's state, from which a killed run resumes. A run saves its state only if it
    has a folder for it (`--state`)."""


@settings
class RunSettings:
    """Where and how a training runs; none of it changes the result."""

    process_timeout: Positive = 1800.0
    """Seconds that one of several processes waits for the others."""
    device: Device = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics are logged besides the files of the run; each is an extra of the package."""
    variant: str = ""
    """What results call these settings if they are not the method's own; in a config, `variants` sets it."""

"""Settings of every training: where and how it runs."""

from __future__ import annotations

from typing import Literal

from rl4vlm.config.fields import Device, Positive, Seconds, settings

NO_EFFECT = ("save_every", "save_minutes", "loggers", "logged_episodes", "process_timeout")
"""Settings of any stage that have no effect on its results."""


@settings
class SavedByTime:
    """How often a run saves its state."""

    save_minutes: Positive = 30.0
    """Minutes between two saves of the run's state, from which a killed run continues. A run saves its state only if it
    is given a folder (`--state`)."""


@settings
class RunSettings:
    """Where and how a training runs; the result does not depend on it, up to rounding."""

    process_timeout: Seconds = 1800.0
    """With several processes: how many seconds a process waits for the others."""
    device: Device = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics are logged in addition to the run's files; each logger is an extra of the package."""
    variant: str = ""
    """Name of these settings in the results, if they are not the method's own; in a config, `variants` sets it."""

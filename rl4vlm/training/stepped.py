"""A training whose number of optimizer steps is known when it begins: SFT, and the pre-training of a base model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.optim.lr_scheduler import LRScheduler

from rl4vlm.config.stages.training import SavedByTime
from rl4vlm.models.loading import Backbone
from rl4vlm.results.provenance import METRICS
from rl4vlm.training.distributed import Processes
from rl4vlm.training.model_state import ModelState


@dataclass(kw_only=True)
class SteppedState:
    """The training between two steps. It is a `Resumable`, saved by the clock.

    The training's seed must determine the samples of every step, since a state holds only the number of steps made.

    Attributes:
        backbone: the model that is trained, and its processor.
        optimizer: that of the trained weights.
        schedule: of the learning rate, stepped once per optimizer step.
        processes: the processes that train together.
        steps: number of optimizer steps of the whole training.
        done: number of optimizer steps made.
        saved_at: the `time.monotonic()` of the last save, or of the start of this process.
    """

    logs: ClassVar[tuple[str, ...]] = (METRICS,)

    backbone: Backbone
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    processes: Processes
    steps: int
    done: int = 0
    saved_at: float = field(default_factory=time.monotonic)

    @property
    def model_state(self) -> ModelState:
        """Weights, optimizer and schedule."""
        return ModelState(self.backbone.model, self.optimizer, self.schedule)

    @property
    def plain_types(self) -> tuple[type, ...]:
        """Empty: the fields are plain numbers."""
        return ()

    @property
    def position(self) -> str:
        """How far the run is, in words."""
        return f"step {self.done} of {self.steps}"

    def should_save(self, settings: SavedByTime) -> bool:
        """Whether to save now: `save_minutes` after the last save or the start, and after the last step."""
        now = time.monotonic()
        # The main process decides: clocks differ, but all processes must save after the same step.
        due = self.processes.gather(now - self.saved_at >= 60 * settings.save_minutes)[0]
        save = due or self.done == self.steps
        self.saved_at = now if save else self.saved_at
        return save

    def shared_state(self) -> dict[str, Any]:
        """The number of steps made."""
        return {"done": self.done}

    def rank_state(self) -> dict[str, Any]:
        """Nothing: the processes differ only in their shares of each batch."""
        return {}

    def load_state(self, fields: Mapping[str, Any]) -> None:
        """Load what `shared_state` returned."""
        self.done = fields["done"]

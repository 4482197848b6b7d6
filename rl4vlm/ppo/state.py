"""Everything that a training run needs to go on from where it stands."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from rl4vlm.core.types import Episode
from rl4vlm.interaction.play import Slot
from rl4vlm.ppo.rollout import Played, Rollout
from rl4vlm.ppo.update import Fit, Learner
from rl4vlm.training.distributed import Processes
from rl4vlm.training.model_state import ModelState


@dataclass
class Training:
    """A run between two batched environment steps or two optimiser steps: `Resumable`.

    Whoever stores these fields (of `learner` the weights and the optimiser's state, of `slots` the environments, their
    streams and the counts of their running episodes) at such a moment, and puts them back into a run that was begun
    with the same settings, gets the run that would have been.

    Attributes:
        learner: model and optimiser.
        processes: those that train together; each has its own environments and their steps, and all the rest alike.
        schedule: of the learning rate, stepped once an update.
        slots: this process's environments.
        shuffle: the stream of the samples' orders.
        recent: the last episodes of the success window.
        updates: how many the whole run has.
        update: number of the update that is under way, from 1.
        rows: its steps so far in this process's environments, (steps, envs).
        rollout: what the steps of all came to; None while they are played.
        fit: where the fit to them stands.
    """

    logs: ClassVar[tuple[str, ...]] = ("metrics.jsonl", "timing.jsonl")

    learner: Learner
    processes: Processes
    schedule: torch.optim.lr_scheduler.LRScheduler
    slots: Sequence[Slot]
    shuffle: np.random.Generator
    recent: deque[Episode]
    updates: int
    update: int = 1
    rows: list[list[Played]] = field(default_factory=list)
    rollout: Rollout | None = None
    fit: Fit = field(default_factory=Fit)

    @property
    def model_state(self) -> ModelState:
        return ModelState(self.learner.policy.model, self.learner.optimizer, self.schedule)

    @property
    def position(self) -> str:
        if self.rollout is None:
            return f"update {self.update}, {len(self.rows)} steps into its rollout"
        return f"update {self.update}, {self.fit.seen} samples into its fit"

    def should_save(self, save_every: int) -> bool:
        """Between updates, after so many and after the last."""
        between = not self.rows and self.rollout is None
        return between and (self.update > self.updates or (self.update - 1) % save_every == 0)

    def shared_state(self) -> dict[str, Any]:
        return {"shuffle": self.shuffle, "recent": self.recent, "update": self.update, "rollout": self.rollout}

    def rank_state(self) -> dict[str, Any]:
        # Once they are weighed, steps are in the rollout, which all have.
        rows = self.rows if self.rollout is None else []
        return {"slots": self.slots, "rows": rows, "fit": self.fit}

    def load_state(self, fields: Mapping[str, Any]) -> None:
        """Take what `shared_state` and `rank_state` gave; the environments that this run began with are closed."""
        for slot in self.slots:
            slot.env.close()
        for name, value in fields.items():
            setattr(self, name, value)

    def next_update(self) -> None:
        """Move on, with nothing played or fitted yet."""
        self.schedule.step()
        self.update += 1
        self.rows, self.rollout, self.fit = [], None, Fit()

"""Everything that a PPO run needs to resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch

from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.core.types import Episode
from rl4vlm.interaction.play import Slot
from rl4vlm.ppo.policy_optimizer import PolicyOptimizer
from rl4vlm.ppo.rollout import Rollout, Sample, Transition
from rl4vlm.ppo.success import RecentEpisodes
from rl4vlm.ppo.update import UpdateProgress
from rl4vlm.results.provenance import METRICS, TIMING
from rl4vlm.training.distributed import Processes
from rl4vlm.training.model_state import ModelState


@dataclass
class PPOState:
    """A PPO run between two batched environment steps or two optimizer steps. It is `Resumable`.

    Saving these fields and loading them into a run with the same settings continues that run exactly.

    Attributes:
        policy_optimizer: policy, model and optimizer.
        processes: the processes that train together. Each has its own `slots`, `steps` and sums in `progress`; the
            other fields are the same in all.
        schedule: the learning rate's, stepped once per update.
        slots: this process's environments, with their random streams and running episodes.
        shuffle: the random stream that shuffles the samples.
        recent: the last training episodes, for the success rate.
        updates: number of updates of the whole run.
        update: the running update, from 1.
        best: the best success rate on the validation episodes so far, if checkpoints are kept.
        steps: transitions of the running rollout in this process's environments, (steps, envs).
        rollout: the finished rollout of all processes; None while it is played.
        progress: how far the update on that rollout is.
    """

    logs: ClassVar[tuple[str, ...]] = (METRICS, TIMING)

    policy_optimizer: PolicyOptimizer
    processes: Processes
    schedule: torch.optim.lr_scheduler.LRScheduler
    slots: Sequence[Slot]
    shuffle: np.random.Generator
    recent: RecentEpisodes
    updates: int
    update: int = 1
    best: float | None = None
    steps: list[list[Transition]] = field(default_factory=list)
    rollout: Rollout | None = None
    progress: UpdateProgress = field(default_factory=UpdateProgress)

    @property
    def model_state(self) -> ModelState:
        return ModelState(self.policy_optimizer.policy.model, self.policy_optimizer.optimizer, self.schedule)

    @property
    def plain_types(self) -> tuple[type, ...]:
        """The classes of plain data that the fields hold."""
        return (Episode, Transition, Sample, Rollout, *self.policy_optimizer.policy.replay_types)

    @property
    def position(self) -> str:
        """Where the run stands, for messages."""
        if self.rollout is None:
            return f"update {self.update}, {len(self.steps)} steps into its rollout"
        return f"update {self.update}, {self.progress.seen} samples into its optimisation"

    def should_save(self, settings: TrainingSettings) -> bool:
        """Whether to save now: between two updates, every `save_every` updates and after the last one.

        And before a validation: while it is played nothing is saved, and a kill should not cost the whole update.
        """
        if self.rollout is not None:
            return self.progress.epoch >= settings.ppo_epochs and settings.validates_after(self.update)
        return not self.steps and (self.update > self.updates or (self.update - 1) % settings.save_every == 0)

    def shared_state(self) -> dict[str, Any]:
        """The fields that are the same in every process, saved once. Weights and optimizer are in `model_state`."""
        return {
            "shuffle": self.shuffle.bit_generator.state,
            "recent": self.recent.state(),
            "update": self.update,
            "best": self.best,
            "rollout": self.rollout,
        }

    def rank_state(self) -> dict[str, Any]:
        """The fields that each process saves for itself."""
        # Once the rollout is complete, it holds the steps of all processes.
        steps = self.steps if self.rollout is None else []
        progress = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in vars(self.progress).items()
        }
        return {"slots": [slot.state() for slot in self.slots], "steps": steps, "progress": progress}

    def load_state(self, fields: Mapping[str, Any]) -> None:
        """Load what `shared_state` and `rank_state` returned.

        The actions of running episodes are replayed. If an environment reaches another state, as a simulator may, its
        episode is cut off, with a note, and another one begins.
        """
        cut: list[int] = []
        for index, (slot, saved) in enumerate(zip(self.slots, fields["slots"], strict=True)):
            if not slot.load_or_abandon(saved, f"environment {index}"):
                cut.append(index)
        self.shuffle.bit_generator.state = fields["shuffle"]
        self.recent.load_state(fields["recent"])
        self.update, self.best = fields["update"], fields["best"]
        self.rollout, self.steps = fields["rollout"], fields["steps"]
        for index in cut if self.steps else ():
            # Or the value of the new episode's first state would count as the future of the old one's last step.
            self.steps[-1][index] = replace(self.steps[-1][index], done=True)
        progress: dict[str, Any] = {
            name: value.numpy() if torch.is_tensor(value) else value for name, value in fields["progress"].items()
        }
        self.progress = UpdateProgress(**progress)

    def next_update(self) -> None:
        """Move on to the next update."""
        # Stepped here, not after each optimizer step: the rate is constant within an update.
        self.schedule.step()
        self.update += 1
        self.steps, self.rollout, self.progress = [], None, UpdateProgress()

"""The two ways of playing and learning that `throughput.py` compares: this project's, and the public code's."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.backbones import config_of
from benchmarks.ceiling import synchronise
from benchmarks.counting import Work, count
from benchmarks.peak import PeakMemory
from benchmarks.public_way import PublicWay
from benchmarks.rates import Phase, Repeat
from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.core.types import Style
from rl4vlm.interaction.play import Slot
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.loading import DTYPES
from rl4vlm.models.lora import trainable
from rl4vlm.policies.vlm import VLMPolicy, VLMReplayItem
from rl4vlm.ppo.initial import make_slots
from rl4vlm.ppo.policy_optimizer import PolicyOptimizer
from rl4vlm.ppo.rollout import Sample, compute_advantages, rollout_step
from rl4vlm.ppo.update import UpdateProgress, optimizer_steps
from rl4vlm.training.optim import adamw

THOUGHT_PROB_COEF = 0.5


@dataclass(frozen=True)
class Settings:
    """What is measured. The defaults depend on the model (`settings_of` in `throughput.py`).

    In mode `ours`, a rollout has `steps_per_env` steps in each of `num_envs` environments; in mode `public`, it has
    `public_steps` steps in one environment. One optimizer step follows. A reply has at most `tokens` tokens, and mode
    `public` pads it to `padded`. With `freeze_vision`, mode `ours` does not train the vision tower either. No further
    repeat starts after `seconds` seconds.
    """

    model: str
    device: str
    dtype: str
    modes: tuple[str, ...]
    task: str
    tokens: int
    padded: int
    num_envs: int
    steps_per_env: int
    micro_batch_size: int
    public_steps: int
    lora_rank: int
    gradient_checkpointing: bool
    repeats: int
    seconds: float
    seed: int
    freeze_vision: bool = False

    @property
    def tiny(self) -> bool:
        return self.model == "llava-test"


@dataclass(frozen=True)
class Cost:
    """What an action took: wall seconds, CPU seconds of all threads, and peak memory in bytes (None if unknown)."""

    seconds: float
    processor_seconds: float
    peak_memory: int | None


class Mode:
    """One way of playing and learning, with its own environments and optimizer."""

    def __init__(self, name: str, model: ActorCritic, settings: Settings) -> None:
        self.name, self.model, self.device = name, model, model.device
        ours = name == "ours"
        self.policy: VLMPolicy = VLMPolicy(model) if ours else PublicWay(model, settings.padded)
        num_envs, steps_per_env = (settings.num_envs, settings.steps_per_env) if ours else (1, settings.public_steps)
        self.training = TrainingSettings(
            total_env_steps=num_envs * steps_per_env,
            num_envs=num_envs,
            num_steps=num_envs * steps_per_env,
            ppo_epochs=1,
            minibatch_size=num_envs * steps_per_env,
            micro_batch_size=min(settings.micro_batch_size, num_envs * steps_per_env) if ours else 1,
        )
        self.slots: list[Slot] = make_slots(settings.task, Style.COT, settings.seed, self.training)
        self.counted = count(
            config_of(model),
            width=DTYPES[settings.dtype].itemsize,
            rank=settings.lora_rank,
            frozen_vision=settings.freeze_vision,
        )
        optimizer = adamw(trainable(model), self.device, lr=1e-5, eps=1e-7, weight_decay=0.0)
        accelerator = Accelerator(cpu=self.device.type == "cpu")
        self.policy_optimizer = PolicyOptimizer(self.policy, model, optimizer, accelerator, THOUGHT_PROB_COEF)

    def repeat(self) -> Repeat:
        """Play, score and learn once."""
        samples, rollout = self.play()
        return Repeat(rollout, self.score(samples), self.update(samples), distinct_prompts(samples))

    def warm_up(self) -> None:
        """Run one repeat without measuring. If the GPU runs out of memory, halve the micro-batch and try again."""
        while True:
            try:
                self.repeat()
                return
            except torch.OutOfMemoryError:
                size = self.training.micro_batch_size or len(self.slots)
                if size == 1:
                    raise
                self.training = replace(self.training, micro_batch_size=size // 2)
                self.policy_optimizer.optimizer.zero_grad()

    def play(self, count: int | None = None) -> tuple[list[Sample], Phase]:
        """Play a rollout with advantages. `count` is the number of steps per environment, if not the settings'."""
        count = count or self.training.steps_per_env

        def rollout() -> list[Sample]:
            steps = [rollout_step(self.slots, self.policy, self.training) for _ in range(count)]
            return compute_advantages(steps, np.zeros(len(self.slots)), self.training).samples

        samples, cost = self._timed(rollout)
        prompt, reply = tokens_of(samples)
        envs = len(self.slots)
        works = (self.counted.prefill(prompt, envs), self.counted.decode(prompt, reply, envs))
        return samples, phase(samples, [times(work, count) for work in works], cost)

    def score(self, samples: Sequence[Sample]) -> Phase:
        """Score a rollout again, without gradients."""
        size = self.training.micro_batch_size or len(samples)

        @torch.no_grad()
        def score() -> None:
            self.model.eval()
            for start in range(0, len(samples), size):
                self.policy.rescore(self.model, [vlm_item(sample) for sample in samples[start : start + size]])

        _, cost = self._timed(score)
        return phase(samples, [self._batches(samples, self.counted.score)], cost)

    def update(self, samples: Sequence[Sample]) -> Phase:
        """Train for one epoch on a rollout: one optimizer step, in micro-batches.

        Below float32, PPO scores the samples again before an update. This is not included: `score` measures it.
        """
        old = np.array([played(sample) for sample in samples])

        def update() -> None:
            rng = np.random.default_rng(0)
            progress = UpdateProgress(old=old)
            for _ in optimizer_steps(self.policy_optimizer, samples, progress, self.training, rng):
                pass
            self.policy_optimizer.optimizer.zero_grad()

        _, cost = self._timed(update)
        works = [self._batches(samples, self.counted.update), self.counted.optimizer_step()]
        return phase(samples, works, cost)

    def about(self) -> dict[str, int | None]:
        """The number of environments and the size of a micro-batch."""
        return {"num_envs": len(self.slots), "micro_batch_size": self.training.micro_batch_size}

    def _batches(self, samples: Sequence[Sample], counted: Callable[[float, float, int], Work]) -> Work:
        prompt, reply = tokens_of(samples)
        size = self.training.micro_batch_size or len(samples)
        return times(counted(prompt, reply, size), len(samples) / size)

    def _timed(self, action: Callable[[], Any]) -> tuple[Any, Cost]:
        """Run `action`; return its result and cost."""
        gc.collect()
        with PeakMemory(self.device) as peak:
            synchronise(self.device)
            begun, used = time.perf_counter(), time.process_time()
            made = action()
            synchronise(self.device)
            seconds, used = time.perf_counter() - begun, time.process_time() - used
        return made, Cost(seconds, used, peak.bytes)


def phase(samples: Sequence[Sample], works: Sequence[Work], cost: Cost) -> Phase:
    """A timed phase of these samples."""
    prompt, reply = tokens_of(samples)
    count = len(samples)
    return Phase(
        seconds=cost.seconds,
        processor_seconds=cost.processor_seconds,
        samples=count,
        prompt_tokens=prompt * count,
        reply_tokens=reply * count,
        works=tuple(works),
        peak_memory=cost.peak_memory,
    )


def played(sample: Sample) -> tuple[float, ...]:
    """The row that `rescore_before_update` would give if playing and scoring agreed: log-probability, value,
    log-probability as sampled, importance weight, and a `token_mult_prob_error` of 1 over one token."""
    item = vlm_item(sample)
    log_prob = THOUGHT_PROB_COEF * item.logprob_thoughts + item.logprob_action
    return log_prob, item.value, log_prob, 1.0, 1.0, 1.0


def tokens_of(samples: Sequence[Sample]) -> tuple[float, float]:
    """Mean tokens of prompts, including image tokens, and of replies."""
    prompts = [len(vlm_item(sample).prompt.input_ids) for sample in samples]
    replies = [len(vlm_item(sample).ids) for sample in samples]
    return statistics.fmean(prompts), statistics.fmean(replies)


def distinct_prompts(samples: Sequence[Sample]) -> int:
    """The number of distinct (image, prompt) pairs."""
    return len({vlm_item(sample).prompt.key for sample in samples})


def vlm_item(sample: Sample) -> VLMReplayItem:
    """What the policy stored of a step."""
    assert isinstance(sample.item, VLMReplayItem)
    return sample.item


def times(work: Work, factor: float) -> Work:
    """`factor` times the work."""
    return Work(work.flops * factor, work.bytes * factor)

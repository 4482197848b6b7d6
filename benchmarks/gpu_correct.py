"""Correctness on a device: what must hold whatever the hardware, for `gpu_check.py`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.backbones import build
from benchmarks.modes import THOUGHT_PROB_COEF, vlm_item
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.core.files import read_json_lines
from rl4vlm.core.types import Style
from rl4vlm.models.actor_critic import ActorCritic, Generated
from rl4vlm.models.encode import Encoded
from rl4vlm.models.loading import DTYPES
from rl4vlm.policies.vlm import VLMPolicy
from rl4vlm.ppo.initial import initial_state, make_slots
from rl4vlm.ppo.loop import train
from rl4vlm.ppo.rollout import compute_advantages, rollout_step
from rl4vlm.ppo.state import PPOState
from rl4vlm.results.provenance import METRICS
from rl4vlm.training.accelerator import accelerator_on
from rl4vlm.training.model_state import restore_tensors, trained_tensors
from rl4vlm.training.resume import ResumeManager
from rl4vlm.training.signals import SignalFlag
from rl4vlm.training.store import StateStore

LIMITS = {"float32": 1e-3, "bfloat16": 0.3}
"""How far two ways of computing the log-probability of a token may differ, in nats, at temperature 0.2. On a CPU the
difference was 3e-6 in float32, for `llava-23m`."""
RATIO_LIMIT = 1e-3
"""How far the first ratio may be from 1. In bfloat16 it compares one pass with itself (`rescore_before_update`)."""
RESUME_LIMITS = {"cpu": 0.0, "cuda": 0.05}
"""How far the weights of a resumed run may be from those of an unbroken one, as a share of the distance that training
moved them. On a GPU the order of some sums varies, and where a gradient is mere rounding, Adam's step is as long."""
MODEL_PARTS = ("vision_tower.", "projector.", "language_model.", "value_head.")


class Killed(Exception):
    """Raised in place of killing the process."""


def correctness(shape: str, dtype: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """Check a model with random weights and adapters; yields one result per check."""

    def result(check: str, found: float, limit: float) -> dict[str, Any]:
        # Not `found > limit`: NaN must not pass.
        about = {"part": "correctness", "model": shape, "dtype": dtype, "check": check}
        return about | {"found": found, "limit": limit, "passed": bool(found <= limit)}

    lora = LoraSettings(rank=8, alpha=16.0)
    model = build(shape, dtype=DTYPES[dtype], device=device, lora=lora, max_new_tokens=12)
    settings = TrainingSettings(
        total_env_steps=16,
        num_envs=4,
        num_steps=8,
        ppo_epochs=1,
        minibatch_size=4,
        micro_batch_size=2,
        learning_rate=1e-3,
        device=device.type,
    )
    prompts = some_prompts(model, settings)
    for model.kv_cache in ("dynamic", "static"):
        replies = model.generate(prompts, [np.random.default_rng(seed) for seed in range(len(prompts))])
        for way, others in {"score": _scored, "transformers alone": by_hand}.items():
            apart = _apart(replies, others(model, prompts, replies))
            yield result(f"log-probs of generation ({model.kv_cache} cache) and of {way}", apart, LIMITS[dtype])
    model.kv_cache = None

    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    start = {name: weight.clone() for name, weight in trained_tensors(model).items()}
    with tempfile.TemporaryDirectory() as folder:
        metrics = run(model, settings, Path(folder, "whole"))
        whole = {name: weight.clone() for name, weight in trained_tensors(model).items()}
        changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
        restore_tensors(model, start)
        run(model, settings, Path(folder, "killed"), kill_at=2)
        restore_tensors(model, start)
        run(model, settings, Path(folder, "killed"))
    apart = distance(trained_tensors(model), whole) / distance(whole, start)
    yield result("first ratio, distance from 1", metrics[0]["first_ratio_error"], RATIO_LIMIT)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    yield result("frozen weights that an update changed", len(changed & frozen), 0)
    untouched = [part for part in MODEL_PARTS if not any(part in name for name in changed)]
    yield result("parts of the model whose adapters no update changed", len(untouched), 0)
    yield result("distance of a resumed run's weights from an unbroken run's", apart, RESUME_LIMITS[device.type])


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The Euclidean distance of two sets of weights, over all tensors of `other`."""
    apart = [(one[name].double() - weight.double()).norm() for name, weight in other.items()]
    return float(torch.stack(apart).norm())


def some_prompts(model: ActorCritic, settings: TrainingSettings) -> list[Encoded]:
    """The encoded prompts of one step in each environment."""
    slots = make_slots("NumberLine", Style.COT, 0, settings)
    steps = [rollout_step(slots, VLMPolicy(model), settings)]
    return [vlm_item(sample).prompt for sample in compute_advantages(steps, np.zeros(len(slots)), settings).samples]


def _apart(replies: Sequence[Generated], others: Sequence[torch.Tensor]) -> float:
    return max(float((reply.logprobs - other).abs().max()) for reply, other in zip(replies, others, strict=True))


@torch.no_grad()
def _scored(model: ActorCritic, prompts: Sequence[Encoded], replies: Sequence[Generated]) -> list[torch.Tensor]:
    scores = model.score(prompts, [reply.ids for reply in replies])
    return [row[: len(reply.ids)] for row, reply in zip(scores.logprobs.cpu(), replies, strict=True)]


@torch.no_grad()
def by_hand(model: ActorCritic, prompts: Sequence[Encoded], replies: Sequence[Generated]) -> list[torch.Tensor]:
    """Log-probabilities (R,) of replies by the bare model: alone, unpadded, without a cache, with eager attention."""
    model.model.set_attn_implementation("eager")
    found = []
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.cat([prompt.input_ids, reply.ids])[None].to(model.device)
        images = {name: tensor.to(model.device) for name, tensor in prompt.images.items()}
        logits = model.model(input_ids=ids, **images).logits[0, len(prompt.input_ids) - 1 : -1].float()
        logits[:, model.suppressed] = -torch.inf
        logprobs = (logits / model.temperature).log_softmax(-1).cpu()
        found.append(logprobs[torch.arange(len(reply.ids)), reply.ids])
    model.model.set_attn_implementation("sdpa")
    return found


def run(
    model: ActorCritic, settings: TrainingSettings, out: Path, kill_at: int | None = None
) -> list[Mapping[str, Any]]:
    """Train for the settings' updates, from the last state in `out` if there is one; returns the lines of metrics.

    `kill_at` is the update in which the run is killed after its first optimizer step.
    """
    policy, slots = VLMPolicy(model), make_slots("NumberLine", Style.COT, 0, settings)
    accelerator = accelerator_on(settings.device)
    state = initial_state(policy, slots, accelerator, settings, 0, thought_prob_coef=THOUGHT_PROB_COEF)
    manager = ResumeManager(StateStore(out / "states", {}), out, settings, SignalFlag(), time.monotonic())
    manager.resume(state)

    def on_step(state: PPOState) -> None:
        manager.on_step(state)
        if state.update == kill_at and state.progress.seen:
            raise Killed

    with suppress(Killed):
        train(state, settings, out, "check", on_step)
    return [line for _, line in read_json_lines(out / METRICS)]

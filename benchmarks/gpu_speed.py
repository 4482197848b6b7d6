"""Memory and throughput of PPO on a device, choice by choice, and how often it waits for it, for `gpu_check.py`."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available

from benchmarks.backbones import build, config_of
from benchmarks.modes import Mode, Settings, distinct_prompts, tokens_of, vlm_item
from benchmarks.rates import Phase, per_sample
from benchmarks.throughput import profiled
from rl4vlm.config.fields import DType, KVCache
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.models.loading import DTYPES
from rl4vlm.models.memory import Memory, estimate_of
from rl4vlm.models.vllm_engine import check_vllm
from rl4vlm.ppo.rollout import Sample

LEARNED = 32
"""Samples of a measured update: enough for its one optimizer step to take little of the time, as with the 256 of a
mini-batch."""
REPLIES_PER_PROMPT = {"EZPoints": 1, "NumberLine": 9}
"""How many samples of a mini-batch have the same prompt. NumberLine has 30 prompts for the 256 of a mini-batch."""
WARM_UP_TOKENS = 4
LATE = {"why": "out of time"}


@dataclass(frozen=True)
class Choice:
    """Settings to compare: those that change nothing but speed and memory, and the rank of the adapters.

    `task` is the game. Nearly all prompts of EZPoints are distinct. A rollout of NumberLine has some 30 distinct ones,
    so there it matters whether equal prompts pass through the model once (`share_prompts`).
    """

    dtype: DType = "bfloat16"
    lora_rank: int = 128
    attention: str = "sdpa"
    num_envs: int = 64
    micro_batch_size: int = 4
    gradient_checkpointing: bool = False
    kv_cache: KVCache = "dynamic"
    task: str = "EZPoints"
    share_prompts: bool = True

    @property
    def played(self) -> tuple[Any, ...]:
        """The settings that the speed of playing depends on, for one model."""
        return "play", self.attention, self.num_envs, self.kv_cache, self.task, self.share_prompts

    @property
    def learned(self) -> tuple[Any, ...]:
        """The settings that the speed of learning depends on, for one model."""
        update = self.micro_batch_size, self.gradient_checkpointing
        return "learn", self.attention, *update, self.task, self.share_prompts


BASE = Choice()
"""Learns with the settings of paper.yaml and paper-fast.yaml, and plays with those of paper-fast.yaml."""


def choices(rank: int, num_envs: int, more: bool = False) -> list[Choice]:
    """The choices to measure, the most important first; those of one model stand together."""
    base = replace(BASE, lora_rank=rank, num_envs=num_envs)
    # With a static cache passes are compiled, which takes time: measure it once, unless `more`.
    static = [replace(base, kv_cache="static", num_envs=count) for count in ([num_envs, 2] if more else [num_envs])]
    found = [base, replace(base, num_envs=2), *static]
    found += [replace(base, micro_batch_size=size, gradient_checkpointing=True) for size in (1, 4)]
    found += [replace(base, micro_batch_size=size) for size in (8, 16)]
    other = ["eager", *(["flash_attention_2"] if is_flash_attn_2_available() else [])]
    found += [replace(base, attention=name) for name in other]
    repeating = replace(base, task="NumberLine")
    found += [repeating, replace(repeating, share_prompts=False)]
    # As SFT does.
    found += [replace(base, lora_rank=0, micro_batch_size=size, gradient_checkpointing=True) for size in (1, 4)]
    if more:
        found += [replace(base, dtype="float32", micro_batch_size=size) for size in (1, 4)]
    return found


def not_measured() -> Iterator[dict[str, Any]]:
    """A line for each choice that this machine leaves out, with the reason."""
    try:
        check_vllm()
        why = "this check does not start it; compare `rollout_s` in timing.jsonl of runs with and without it"
    except ValueError as error:
        why = str(error)
    yield {"part": "throughput", "not_measured": "engine: vllm", "why": why}
    if not is_flash_attn_2_available():
        yield {"part": "throughput", "not_measured": "flash_attention_2", "why": "flash-attn does not run here"}


def measure(
    shape: str,
    device: torch.device,
    asked: list[Choice],
    tokens: int,
    late: Callable[[], bool],
    profile_to: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure choices; yields lines of rates, and of a profile of the first choice if there is a file for it.

    Playing and learning are measured apart: how fast a model learns does not depend on how many environments play.

    Args:
        shape: a name of `benchmarks.backbones.SHAPES`.
        device: where to measure.
        asked: the choices.
        tokens: tokens of a reply; with random weights no reply ends earlier.
        late: says whether it is too late to begin another measurement.
        profile_to: file for the profile's tables.
    """
    for (dtype, rank), same in groupby(asked, key=lambda choice: (choice.dtype, choice.lora_rank)):
        if late():
            yield {"part": "throughput", "not_measured": f"{dtype}, LoRA rank {rank}"} | LATE
            continue
        lora = LoraSettings(rank=rank, alpha=2.0 * rank) if rank else None
        begun = time.monotonic()
        model = build(shape, dtype=DTYPES[dtype], device=device, lora=lora, max_new_tokens=tokens)
        print(f"{shape} in {dtype}, LoRA rank {rank}: built in {time.monotonic() - begun:.0f} s", flush=True)
        measured: set[tuple[Any, ...]] = set()
        samples: dict[str, list[Sample]] = {}  # by game
        for choice in same:
            model.model.set_attn_implementation(choice.attention)
            model.share_prompts = choice.share_prompts
            mode = Mode("ours", model, settings_of(shape, device, choice, tokens))
            about = {"part": "throughput", "model": shape, "choice": asdict(choice)}
            for kind, relevant in (("play", choice.played), ("learn", choice.learned)):
                if relevant in measured:
                    continue
                measured.add(relevant)
                before = samples.get(choice.task, [])
                if late():
                    yield {"part": "throughput", "not_measured": f"{kind} with {changes(choice, asked[0])}"} | LATE
                elif kind == "play":
                    samples[choice.task], line = play(mode, choice, tokens, before)
                    yield about | line
                else:
                    yield about | learn(mode, choice, before)
            if profile_to is not None and choice is asked[0]:
                yield about | {"part": "profile", **asdict(profiled(mode, profile_to))}
            mode.policy_optimizer.optimizer.zero_grad()
            del mode
            free(device)
        del model
        free(device)


def changes(choice: Choice, first: Choice) -> str:
    """The settings of a choice that differ from those of the first one, in words."""
    start = asdict(first)
    changed = [f"{name} {value}" for name, value in asdict(choice).items() if value != start[name]]
    return ", ".join(changed) or "the first settings"


def attempt(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an action measures, or why it could not. A failure must not cost the measurements after it."""
    try:
        return action()
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def free(device: torch.device) -> None:
    """Free memory that is no longer used, which would count in the next measured peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def settings_of(shape: str, device: torch.device, choice: Choice, tokens: int) -> Settings:
    """The benchmark's settings for a choice."""
    return Settings(
        model=shape,
        device=str(device),
        modes=("ours",),
        task=choice.task,
        tokens=tokens,
        padded=tokens,
        steps_per_env=1,
        public_steps=1,
        repeats=1,
        seconds=0.0,
        seed=0,
        dtype=choice.dtype,
        lora_rank=choice.lora_rank,
        num_envs=choice.num_envs,
        micro_batch_size=choice.micro_batch_size,
        gradient_checkpointing=choice.gradient_checkpointing,
    )


def play(mode: Mode, choice: Choice, tokens: int, before: list[Sample]) -> tuple[list[Sample], dict[str, Any]]:
    """Measure one step in every environment, after a short one to warm up.

    Returns:
        The samples, or those of `before` if they are more; and the rates and peak of the measurement.
    """
    found = [before]
    mode.model.kv_cache = choice.kv_cache

    def measured() -> dict[str, Any]:
        # A static cache has its size from the start, and passes are compiled for it.
        mode.model.max_new_tokens = tokens if choice.kv_cache == "static" else WARM_UP_TOKENS
        mode.play()
        mode.model.max_new_tokens = tokens
        samples, phase = mode.play()
        found.append(samples)
        memory = estimated(mode, choice, samples)
        return {
            "samples": len(samples),
            "distinct_prompts": distinct_prompts(samples),
            "played_per_s": 1 / per_sample(phase),
            "tokens_per_s": phase.reply_tokens / phase.seconds,
            "peak_memory": peak(phase, mode),
            # No optimizer step came before: there are no moments yet.
            "estimated_memory": memory.weights + memory.cache,
        }

    line = {"measured": "play", **attempt(measured)}
    if choice.kv_cache == "static":
        # It would count in the peaks of learning, and the next choice may need another size.
        mode.model.reused_cache.drop()
    return max(found, key=len), line


def learn(mode: Mode, choice: Choice, samples: list[Sample]) -> dict[str, Any]:
    """Measure scoring samples and training on them in one optimizer step, after one micro-batch of each to warm up."""
    samples = like_a_mini_batch(samples, REPLIES_PER_PROMPT[choice.task])
    backbone = mode.model.model
    if choice.gradient_checkpointing:
        backbone.activation_checkpointing_enable()
    else:
        backbone.activation_checkpointing_disable()

    def measured() -> dict[str, Any]:
        for some in (samples[: choice.micro_batch_size], samples):
            score, update = mode.score(some), mode.update(some)
        return {
            "samples": len(samples),
            "distinct_prompts": distinct_prompts(samples),
            "scored_per_s": 1 / per_sample(score),
            "trained_per_s": 1 / per_sample(update),
            "peak_memory": peak(update, mode),
            "estimated_memory": estimated(mode, choice, samples).training,
        }

    return {"measured": "learn", **attempt(measured)}


def like_a_mini_batch(samples: Sequence[Sample], replies: int) -> list[Sample]:
    """`LEARNED` samples (or fewer, if there are too few prompts), with so many replies to each prompt.

    The replies are copies of one reply: what they say makes no difference to the speed, and playing a whole rollout
    would take too long. Samples with equal prompts stand next to each other, as in the update's mini-batches.
    """
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(vlm_item(sample).prompt.key, sample)
    return [sample for sample in first.values() for _ in range(replies)][:LEARNED]


def peak(phase: Phase, mode: Mode) -> int | None:
    """Bytes of GPU memory at the peak of a phase; None on a CPU, where they would be those of the whole process."""
    return phase.peak_memory if mode.device.type == "cuda" else None


def estimated(mode: Mode, choice: Choice, samples: list[Sample]) -> Memory:
    """What `rl4vlm memory` estimates for these samples."""
    config, (prompt, reply) = config_of(mode.model), tokens_of(samples)
    vision = config.vision_config
    return estimate_of(
        config,
        MemorySettings(
            dtype=choice.dtype,
            lora_rank=choice.lora_rank,
            gradient_checkpointing=choice.gradient_checkpointing,
            tokens=round(prompt + reply),
            reply=round(reply),
            patches=(vision.image_size // vision.patch_size) ** 2 + 1,
            micro_batch_size=choice.micro_batch_size,
            num_envs=choice.num_envs,
        ),
    )

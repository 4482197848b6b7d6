"""Supervised fine-tuning on demonstrations: the warm start that PPO begins from (paper, section 4.1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.core.files import JsonLines, atomic_directory
from rl4vlm.core.progress import progress
from rl4vlm.core.seeding import stream
from rl4vlm.models.actor_critic import reply_logits
from rl4vlm.models.encode import IGNORED_LABEL, Encoded, Encoder, collate
from rl4vlm.models.loading import Backbone, accelerator_on, load_backbone
from rl4vlm.models.lora import trainable
from rl4vlm.results.provenance import write_run_record
from rl4vlm.sft.data import Demonstration, load_samples
from rl4vlm.training.distributed import Processes, accumulate, all_reduce_sum, micro_batches
from rl4vlm.training.fsdp import full_weights_on_main, prepare
from rl4vlm.training.model_state import ModelState
from rl4vlm.training.optim import check_finite, clear_gradients, fused
from rl4vlm.training.resume import resumable
from rl4vlm.training.store import StateFolder
from rl4vlm.training.tracking import metric_sinks


@dataclass
class SFTState:
    """A fine-tuning between two optimiser steps: `Resumable`.

    Attributes:
        backbone: what is trained; `model` is its model as the accelerator prepared it.
        batches: indices of the samples of each step, of the whole run.
        done: steps made.
    """

    logs: ClassVar[tuple[str, ...]] = ("metrics.jsonl",)

    backbone: Backbone
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    accelerator: Accelerator
    processes: Processes
    batches: Sequence[np.ndarray]
    done: int = 0

    @property
    def model_state(self) -> ModelState:
        return ModelState(self.backbone.model, self.optimizer, self.schedule)

    @property
    def position(self) -> str:
        return f"step {self.done} of {len(self.batches)}"

    def should_save(self, save_every: int) -> bool:
        """After so many steps and after the last."""
        return self.done % save_every == 0 or self.done == len(self.batches)

    def shared_state(self) -> dict[str, Any]:
        return {"done": self.done}

    def rank_state(self) -> dict[str, Any]:
        return {}

    def load_state(self, fields: Mapping[str, Any]) -> None:
        self.done = fields["done"]


def run(
    *, data: Path, init: str | Path, out: Path, settings: SFTSettings, resume_dir: StateFolder | None = None
) -> None:
    """Fine-tune `init` on the demonstrations in `data`; writes `checkpoint/`, metrics and a run record to `out`.

    With `resume_dir` the run's state is kept there, and a run that was killed goes on from it.
    """
    started = time.monotonic()
    set_seed(settings.seed)
    samples = load_samples(data)
    state = begin(init, len(samples), settings)
    inputs = {"data": data, "init": Path(init)}
    run_key = {"stage": "sft"}
    with resumable(state, resume_dir, out=out, settings=settings, inputs=inputs, started=started, **run_key) as manager:
        train(state, samples, settings, out, f"SFT {data.name}", manager.on_step)
        with full_weights_on_main(state.model, state.accelerator):
            if not state.processes.is_main:
                return
            with atomic_directory(out / "checkpoint") as folder:
                state.backbone.save(folder)
        write_run_record(
            out,
            stage="sft",
            settings=vars(settings),
            seeds={"sft": settings.seed},
            inputs=inputs,
            seconds=manager.seconds,
        )


def begin(init: str | Path, samples: int, settings: SFTSettings) -> SFTState:
    """A run on so many samples that has not made a step yet."""
    accelerator = accelerator_on(settings.device, settings.process_timeout)
    backbone = load_backbone(init, **settings.loading)
    if settings.gradient_checkpointing:
        backbone.model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(
        trainable(backbone.model),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=fused(accelerator.device),
    )
    model, optimizer = prepare(backbone.model, optimizer, accelerator)
    batches = [batch for epoch in range(settings.epochs) for batch in shuffled_batches(samples, settings, epoch)]
    schedule = get_cosine_schedule_with_warmup(optimizer, int(settings.warmup * len(batches)), len(batches))
    processes = Processes(accelerator, settings.process_timeout)
    return SFTState(backbone, model, optimizer, schedule, accelerator, processes, batches)


def train(
    state: SFTState,
    samples: Sequence[Demonstration],
    settings: SFTSettings,
    out: Path,
    title: str,
    on_step: Callable[[SFTState], None],
) -> None:
    """Train from where `state` stands to the end of the run; writes `metrics.jsonl` to `out`. `on_step` is called after
    every step: the state may be stored then.

    Raises ValueError after a step whose loss or weights are not finite, before they may be stored.
    """
    encoder, processes = Encoder(state.backbone.processor), state.processes
    state.model.train()
    with (
        processes.named(),
        JsonLines(processes.file(out / "metrics.jsonl"), append=state.done > 0) as metrics,
        metric_sinks(settings.loggers if processes.is_main else (), out, settings) as sinks,
        processes.shown() as screen,
        progress(len(state.batches), title, unit="batch", stream=screen) as bar,
    ):
        bar.update(state.done)
        while state.done < len(state.batches):
            loss = _step(state, encoder, [samples[i] for i in state.batches[state.done]], settings)
            state.done += 1
            check_finite({"loss": loss}, state.backbone.model, state.accelerator, f"{title}, {state.position}")
            line = {"step": state.done, "loss": loss, "learning_rate": state.schedule.get_last_lr()[0]}
            state.schedule.step()
            metrics.write(line)
            sinks.log(line, step=state.done)
            bar.update(1)
            bar.describe(loss=loss)
            on_step(state)


def _step(state: SFTState, encoder: Encoder, batch: Sequence[Demonstration], settings: SFTSettings) -> float:
    """One optimiser step on a batch; returns its loss."""
    accelerator = state.accelerator
    parts: list[float] = []
    losses_so_far: list[torch.Tensor] = []
    clear_gradients(state.optimizer, state.model)
    for micro_batch in micro_batches(batch, settings.micro_batch_size, accelerator):
        part = micro_batch.counted / len(batch)
        with accumulate(state.model, accelerator, last=micro_batch.last):
            losses = reply_losses(state.model, encoder, micro_batch.items, settings.max_length, accelerator.device)
            micro_batch_loss = losses[: micro_batch.counted].sum() / max(micro_batch.counted, 1)
            # Gradients are averaged over the processes, which each add up their part of the batch alone.
            accelerator.backward(micro_batch_loss * (part * state.processes.count))
        parts.append(part)
        losses_so_far.append(micro_batch_loss.detach())
    state.optimizer.step()
    # Read only now: a GPU would have to be waited for after every micro_batch.
    loss = sum(mean * part for mean, part in zip(torch.stack(losses_so_far).tolist(), parts, strict=True))
    return all_reduce_sum(loss, accelerator)


def shuffled_batches(count: int, settings: SFTSettings, epoch: int) -> list[np.ndarray]:
    """Indices of one epoch's batches, in an order that the seed and the epoch determine; the last may be smaller."""
    order = stream(settings.seed, "sft order", epoch).permutation(count)
    return [order[start : start + settings.batch_size] for start in range(0, count, settings.batch_size)]


def reply_losses(
    model: PreTrainedModel, encoder: Encoder, samples: Sequence[Demonstration], max_length: int, device: torch.device
) -> torch.Tensor:
    """For each sample (B,) the mean cross-entropy over its reply tokens; the prompt carries no loss.

    Averaging within a sample first keeps a batch's loss independent of how the batch is cut into micro_batches.
    """
    prompts = [encode_prompt(encoder, sample) for sample in samples]
    replies = [encoder.reply(sample.reply) for sample in samples]
    for sample, prompt, reply in zip(samples, prompts, replies, strict=True):
        if len(prompt.input_ids) + len(reply) > max_length:
            raise ValueError(f"sample {sample.id!r} has {len(prompt.input_ids) + len(reply)} tokens, over {max_length}")
    batch = collate(prompts, replies, encoder.pad_id, device)
    logits, _ = reply_logits(model, batch)
    labels = batch.reply_ids.masked_fill(~batch.reply_mask, IGNORED_LABEL)
    losses = cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2),
        labels,
        ignore_index=IGNORED_LABEL,
        reduction="none",
    )
    return losses.sum(-1) / batch.reply_mask.sum(-1)


def encode_prompt(encoder: Encoder, sample: Demonstration) -> Encoded:
    """A demonstration's picture and prompt, encoded as PPO and evaluation encode theirs."""
    with Image.open(sample.image) as image:
        return encoder.prompt(np.asarray(image.convert("RGB")), sample.prompt)

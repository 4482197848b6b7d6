"""Supervised fine-tuning on demonstrations: the warm start that PPO begins from (paper, section 4.1)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from rl4vlm.core.progress import progress
from rl4vlm.core.runlog import JsonLines, atomic_directory, metric_sinks, write_run_record
from rl4vlm.core.seeding import stream
from rl4vlm.models.actor_critic import reply_logits
from rl4vlm.models.encode import IGNORED_LABEL, Encoded, Encoder, collate
from rl4vlm.models.loading import accelerator_on, load_backbone
from rl4vlm.models.lora import LoraSettings, check_trainable, trainable
from rl4vlm.models.processes import Processes, gradients_meet, pieces, total
from rl4vlm.models.sharding import prepare, whole_to_save
from rl4vlm.sft.data import Demonstration, load_samples


@dataclass(frozen=True)
class SFTSettings:
    """Hyperparameters of supervised fine-tuning; the defaults are the paper's (LLaVA's recipe).

    `batch` samples make one optimiser step, all processes together, each processing `micro_batch` at a time and waiting
    at most `process_timeout` seconds for the others. `max_length` is in tokens, pictures
    included; a longer sample is an error, since cutting it would cut the action. `dtype`, `quantize`, `one_view` and
    `lora` are those of `load_backbone`; without `lora` all weights are trained, or the adapters that `init` has.
    """

    epochs: int = 1
    batch: int = 64
    micro_batch: int = 64
    learning_rate: float = 2e-5
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_length: int = 2048
    seed: int = 1
    dtype: str = "float32"
    quantize: str | None = None
    one_view: bool = False
    lora: LoraSettings | None = None
    gradient_checkpointing: bool = False
    device: str = "auto"
    process_timeout: float = 1800.0
    loggers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_trainable(self.quantize, self.lora)


def run(*, data: Path, init: str | Path, out: Path, settings: SFTSettings) -> None:
    """Fine-tune `init` on the demonstrations in `data`; writes `checkpoint/`, metrics and a run record to `out`."""
    started = time.monotonic()
    set_seed(settings.seed)
    accelerator = accelerator_on(settings.device, settings.process_timeout)
    backbone = load_backbone(
        init, dtype=settings.dtype, quantize=settings.quantize, one_view=settings.one_view, lora=settings.lora
    )
    if settings.gradient_checkpointing:
        backbone.model.activation_checkpointing_enable()
    samples = load_samples(data)
    encoder = Encoder(backbone.processor)
    optimizer = torch.optim.AdamW(
        trainable(backbone.model), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    model, optimizer = prepare(backbone.model, optimizer, accelerator)
    batches = [batch for epoch in range(settings.epochs) for batch in shuffled_batches(len(samples), settings, epoch)]
    schedule = get_cosine_schedule_with_warmup(optimizer, int(settings.warmup * len(batches)), len(batches))
    model.train()
    processes = Processes(accelerator, settings.process_timeout)
    with (
        processes.named(),
        JsonLines(processes.file(out / "metrics.jsonl")) as metrics,
        metric_sinks(settings.loggers if processes.is_main else (), out, settings) as sinks,
        processes.shown() as screen,
        progress(len(batches), f"SFT {data.name}", unit="batch", stream=screen) as bar,
    ):
        for number, batch in enumerate(batches, start=1):
            loss = 0.0
            optimizer.zero_grad()
            for piece in pieces([samples[i] for i in batch], settings.micro_batch, accelerator):
                part = piece.counted / len(batch)
                with gradients_meet(model, accelerator, last=piece.last):
                    losses = reply_losses(model, encoder, piece.items, settings.max_length, accelerator.device)
                    piece_loss = losses[: piece.counted].sum() / max(piece.counted, 1)
                    # Gradients are averaged over the processes, which each add up their part of the batch alone.
                    accelerator.backward(piece_loss * (part * processes.count))
                loss += float(piece_loss.detach()) * part
            optimizer.step()
            loss = total(loss, accelerator)
            line = {"step": number, "loss": loss, "learning_rate": schedule.get_last_lr()[0]}
            schedule.step()
            metrics.write(line)
            sinks.log(line, step=number)
            bar.update(1)
            bar.describe(loss=loss)
    with whole_to_save(model, accelerator):
        if not processes.is_main:
            return
        with atomic_directory(out / "checkpoint") as folder:
            backbone.save(folder)
    write_run_record(
        out,
        stage="sft",
        settings=vars(settings),
        seeds={"sft": settings.seed},
        inputs={"data": data, "init": Path(init)},
        seconds=time.monotonic() - started,
    )


def shuffled_batches(count: int, settings: SFTSettings, epoch: int) -> list[np.ndarray]:
    """Indices of one epoch's batches, in an order that the seed and the epoch determine; the last may be smaller."""
    order = stream(settings.seed, "sft order", epoch).permutation(count)
    return [order[start : start + settings.batch] for start in range(0, count, settings.batch)]


def reply_losses(
    model: PreTrainedModel, encoder: Encoder, samples: Sequence[Demonstration], max_length: int, device: torch.device
) -> torch.Tensor:
    """For each sample (B,) the mean cross-entropy over its reply tokens; the prompt carries no loss.

    Averaging within a sample first keeps a batch's loss independent of how the batch is cut into pieces.
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
    with Image.open(sample.image) as picture:
        return encoder.prompt(np.asarray(picture.convert("RGB")), sample.prompt)

"""Supervised fine-tuning on demonstrations: the warm start for PPO (paper, section 4.1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.core.files import RECORD, JsonLines
from rl4vlm.core.output import check_apart, check_unchanged
from rl4vlm.core.progress import progress
from rl4vlm.core.seeding import stream
from rl4vlm.models.encode import IGNORED_LABEL, Encoded, Encoder, collate
from rl4vlm.models.loading import load_backbone
from rl4vlm.models.reply_logits import reply_logits
from rl4vlm.results.provenance import CHECKPOINT, METRICS, inputs_now, read_record, write_run_record
from rl4vlm.sft.data import Demonstration, check_special_tokens, load_samples
from rl4vlm.training.accelerator import accelerator_on
from rl4vlm.training.distributed import Processes, accumulate, all_reduce_sum, micro_batches
from rl4vlm.training.fsdp import full_weights_on_main, prepare
from rl4vlm.training.optim import adamw_or_muon, check_finite, clear_gradients
from rl4vlm.training.resume import resumable, run_folder
from rl4vlm.training.stepped import SteppedState
from rl4vlm.training.store import StateFolder
from rl4vlm.training.tracking import metric_trackers


@dataclass(kw_only=True)
class SFTState(SteppedState):
    """A fine-tuning between two optimizer steps.

    Attributes:
        model: `backbone.model` as the accelerator prepared it. Forward passes with gradients go through it.
        accelerator: prepares the model and runs backward passes.
        batches: indices of the samples of every step of the run.
    """

    model: nn.Module
    accelerator: Accelerator
    batches: Sequence[np.ndarray]


def run(
    *, data: Path, init: str | Path, out: Path, settings: SFTSettings, resume_dir: StateFolder | None = None
) -> None:
    """Fine-tune a checkpoint on demonstrations.

    Args:
        data: the demonstrations (`load_samples`).
        init: folder or hub name of the checkpoint to start from.
        out: folder to write: `checkpoint/`, `metrics.jsonl`, and `run.json` last.
        settings: the hyperparameters.
        resume_dir: where the run's state is saved; a killed run continues from there. None saves no state.

    Raises:
        ValueError: `out` holds something else or contains `init`; the checkpoint, the demonstrations or a setting
            cannot be used; or the training diverged.
        Interrupted: a signal stopped the run, and its state is saved.
    """
    started = time.monotonic()
    set_seed(settings.seed)
    check_apart(init, out / CHECKPOINT)
    with run_folder(out, "sft", (CHECKPOINT, METRICS), resume_dir) as folder:
        check_unchanged(data)
        inputs = inputs_now({"data": data, "init": Path(init)})
        samples = load_samples(data)
        state = begin(init, len(samples), settings)
        check_special_tokens(data, samples, Encoder(state.backbone.processor).special_tokens())
        with resumable(
            state, resume_dir, out=folder, settings=settings, inputs=inputs, started=started, stage="sft"
        ) as manager:
            train(state, samples, settings, folder, f"SFT {data.name}", manager.on_step, trackers=out)
            # All processes must enter: under FSDP each sends its shards to the main one, which writes.
            with full_weights_on_main(state.model, state.accelerator):
                if not state.processes.is_main:
                    return
                (folder / CHECKPOINT).mkdir()
                state.backbone.save(folder / CHECKPOINT)
            write_run_record(
                folder,
                stage="sft",
                settings={**_demonstrated(data), **vars(settings)},
                seeds={"sft": settings.seed},
                inputs=inputs,
                seconds=manager.seconds,
            )


def _demonstrated(data: Path) -> dict[str, Any]:
    """The task and style of demonstrations, from their `run.json`. Given ones (`sft_data.given`) may have none."""
    file = data / RECORD
    found = read_record(file)["settings"] if file.is_file() else {}
    return {name: found[name] for name in ("task", "style") if name in found}


def begin(init: str | Path, samples: int, settings: SFTSettings) -> SFTState:
    """Load the model and set up a run on this number of samples, before its first step."""
    accelerator = accelerator_on(settings.device, settings.process_timeout)
    backbone = load_backbone(init, **settings.loading)
    if settings.tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
    if settings.gradient_checkpointing:
        backbone.model.activation_checkpointing_enable()
    optimizer = adamw_or_muon(
        backbone.model,
        accelerator.device,
        lr=settings.learning_rate,
        muon_lr=settings.muon_learning_rate,
        weight_decay=settings.weight_decay,
    )
    model, optimizer = prepare(backbone.model, optimizer, accelerator)
    # All batches are drawn now: the schedule needs their number, and a resumed run skips those that are done.
    batches = [batch for epoch in range(settings.epochs) for batch in shuffled_batches(samples, settings, epoch)]
    schedule = get_cosine_schedule_with_warmup(optimizer, int(settings.warmup * len(batches)), len(batches))
    return SFTState(
        backbone=backbone,
        optimizer=optimizer,
        schedule=schedule,
        processes=Processes(accelerator, settings.process_timeout),
        steps=len(batches),
        model=model,
        accelerator=accelerator,
        batches=batches,
    )


def train(
    state: SFTState,
    samples: Sequence[Demonstration],
    settings: SFTSettings,
    out: Path,
    title: str,
    on_step: Callable[[SFTState], None],
    *,
    trackers: Path | None = None,
) -> None:
    """Train to the end of the run, and write `metrics.jsonl`.

    Args:
        state: the run, new or resumed; it is changed in place.
        samples: all demonstrations.
        settings: the hyperparameters.
        out: the draft of the run's folder.
        title: names the run in the progress bar and in errors.
        on_step: called after every optimizer step, when the state is complete and may be saved.
        trackers: folder of the trackers that the settings ask for; `out` unless given.

    Raises:
        ValueError: the loss or a weight is not finite after a step. That step is not saved.
    """
    encoder, processes = Encoder(state.backbone.processor), state.processes
    # Training mode turns on the backbone's dropout, if any. Unlike PPO, SFT compares no probabilities across steps.
    state.model.train()
    with (
        processes.named(),
        JsonLines(processes.file(out / METRICS), append=state.done > 0) as metrics,
        metric_trackers(state.accelerator, settings.loggers, trackers or out, settings) as track,
        processes.shown() as screen,
        progress(state.steps, title, unit="batch", stream=screen) as bar,
    ):
        bar.update(state.done)  # a resumed run starts its bar where it was stopped
        while state.done < state.steps:
            loss = _step(state, encoder, [samples[i] for i in state.batches[state.done]], settings)
            state.done += 1
            # Before on_step, which may save the state: a diverged run must not overwrite a good state.
            check_finite({"loss": loss}, state.backbone.model, state.accelerator, f"{title}, {state.position}")
            # Read before the schedule's step: the learning rate of the step that was just made.
            line = {"step": state.done, "loss": loss, "learning_rate": state.schedule.get_last_lr()[0]}
            state.schedule.step()
            metrics.write(line)
            track(line, state.done)
            bar.update(1)
            bar.describe(loss=loss)
            on_step(state)


def _step(state: SFTState, encoder: Encoder, batch: Sequence[Demonstration], settings: SFTSettings) -> float:
    """One optimizer step on a batch. Returns the batch's loss, the same in all processes."""
    accelerator = state.accelerator
    parts: list[float] = []
    losses_so_far: list[torch.Tensor] = []
    clear_gradients(state.optimizer, state.model)
    for micro_batch in micro_batches(batch, settings.micro_batch_size, accelerator):
        # The micro-batch's weight in the mean over the batch. The dummy samples after `counted` have no weight.
        part = micro_batch.counted / len(batch)
        with accumulate(state.model, accelerator, last=micro_batch.last):
            losses = reply_losses(state.model, encoder, micro_batch.items, settings.max_length, accelerator.device)
            # At least 1, or a micro-batch of dummy samples alone would be 0 / 0.
            micro_batch_loss = losses[: micro_batch.counted].sum() / max(micro_batch.counted, 1)
            # DDP and FSDP average gradients over the processes. The batch's mean is a sum of terms, some in each
            # process, so multiply by the number of processes to turn the average into a sum.
            accelerator.backward(micro_batch_loss * (part * state.processes.count))
        parts.append(part)
        losses_so_far.append(micro_batch_loss.detach())
    state.optimizer.step()
    # Copy the losses to the CPU once, at the end: `.item()` after each micro-batch would synchronise the GPU.
    loss = sum(mean * part for mean, part in zip(torch.stack(losses_so_far).tolist(), parts, strict=True))
    return all_reduce_sum(loss, accelerator)


def shuffled_batches(count: int, settings: SFTSettings, epoch: int) -> list[np.ndarray]:
    """Indices of the samples in an epoch's batches; seed and epoch determine the order. The last may be smaller."""
    order = stream(settings.seed, "sft order", epoch).permutation(count)
    return [order[start : start + settings.batch_size] for start in range(0, count, settings.batch_size)]


def reply_losses(
    model: PreTrainedModel, encoder: Encoder, samples: Sequence[Demonstration], max_length: int, device: torch.device
) -> torch.Tensor:
    """The mean cross-entropy over each sample's reply tokens, (B,). The prompt has no loss.

    Raises:
        ValueError: a sample has more than `max_length` tokens.
    """
    prompts = [encode_prompt(encoder, sample) for sample in samples]
    replies = [encoder.reply(sample.reply) for sample in samples]
    for sample, prompt, reply in zip(samples, prompts, replies, strict=True):
        if len(prompt.input_ids) + len(reply) > max_length:
            raise ValueError(f"sample {sample.id!r} has {len(prompt.input_ids) + len(reply)} tokens, over {max_length}")
    batch = collate(prompts, replies, encoder.pad_id, device)
    logits, _ = reply_logits(model, batch)
    labels = batch.reply_ids.masked_fill(~batch.reply_mask, IGNORED_LABEL)
    # In float32 at least: bfloat16 is too coarse for a softmax over the vocabulary. Transposed, since `cross_entropy`
    # wants the classes second.
    losses = cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2),
        labels,
        ignore_index=IGNORED_LABEL,
        reduction="none",
    )
    # Averaged per sample first, so that a batch's loss does not depend on how it is cut into micro-batches.
    return losses.sum(-1) / batch.reply_mask.sum(-1)


def encode_prompt(encoder: Encoder, sample: Demonstration) -> Encoded:
    """Encode a demonstration's image and prompt, as PPO and evaluation do."""
    try:
        with Image.open(sample.image) as image:
            pixels = np.asarray(_on_white(image))
    except OSError as error:
        raise ValueError(f"the image of sample {sample.id!r}, {sample.image}, cannot be read: {error}") from error
    return encoder.prompt(pixels, sample.prompt)


def _on_white(image: Image.Image) -> Image.Image:
    """The image in RGB, put on white where it is transparent: the colours of such pixels mean nothing."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")

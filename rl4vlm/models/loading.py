"""Loading a vision-language model and its processor: one path for the tiny model, hub names and local folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from rl4vlm.models.encode import Encoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Backbone:
    """A vision-language model with the processor that prepares its inputs."""

    model: PreTrainedModel
    processor: ProcessorMixin

    def save(self, folder: Path) -> None:
        """Write model and processor as an ordinary Hugging Face checkpoint.

        Its generation config says how replies are made here: no special token but the end token, and sampled where a
        temperature is asked for. So whatever else generates from the checkpoint, `transformers serve` among them, draws
        from the same policy.
        """
        encoder = Encoder(self.processor)
        replies = self.model.generation_config
        replies.suppress_tokens = encoder.suppressed_ids().tolist()
        replies.eos_token_id, replies.pad_token_id = encoder.eos_id, encoder.pad_id
        # 0 is no limit; without it, 50 would be.
        replies.do_sample, replies.top_k, replies.top_p = True, 0, 1.0
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU; any other name is torch's own.

    Raises ValueError for a name that torch does not know, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is not one that torch knows (auto, cpu, cuda, cuda:1)") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs")
    return device


def accelerator_on(name: str) -> Accelerator:
    """An accelerator for training in one process on the device that `choose_device` makes of `name`.

    Raises ValueError where several processes were launched: each would play the same games and write the same files.
    """
    device = choose_device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    accelerator = Accelerator(cpu=device.type == "cpu")
    if accelerator.num_processes > 1:
        raise ValueError(f"training runs in one process, but {accelerator.num_processes} were launched")
    return accelerator


def load_backbone(source: str | Path, *, dtype: str = "float32", **model_options: Any) -> Backbone:
    """Load an image-text-to-text checkpoint by folder or hub name.

    Raises ValueError when `dtype` is unknown or `source` holds no such checkpoint, naming it.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    # Asked for a folder that is not there, the hub's client would look for it on the network for minutes.
    if not Path(source).is_dir() and not HUB_NAME.fullmatch(str(source)):
        raise ValueError(f"no model at {str(source)!r}: neither a folder that is there nor a hub name (owner/model)")
    try:
        processor = AutoProcessor.from_pretrained(source)
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=DTYPES[dtype], **model_options)
    except OSError as error:
        raise ValueError(f"no image-text-to-text checkpoint at {str(source)!r}: {error}") from error
    return Backbone(model, processor)

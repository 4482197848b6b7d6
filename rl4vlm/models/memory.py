"""How much memory a backbone needs, computed from the shapes in its config. No weights are loaded.

Weights, gradients, Adam's moments and the key-value cache are exact; activations are an estimate whose terms are named.
All sizes are in bytes. The memory of the CUDA context and its allocator, 1 to 3 GB, is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from rl4vlm.config.stages.backbone import ALL_LINEAR
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.models.loading import DTYPES, check_language, check_there, name_code_of_its_own
from rl4vlm.models.lora import target_layers, target_matrices
from rl4vlm.models.value_head import ValueHead

SHAPES: Mapping[str, Mapping[str, Any]] = yaml.safe_load((files("rl4vlm.models") / "shapes.yaml").read_text())
"""Configs of well-known backbones by name."""
FLOAT32 = 4
BLOCK, SCALE_BLOCK = 64, 256
"""NF4 with double quantisation: number of weights per scale, and of scales per second-level scale."""
KEPT_PER_TOKEN = 34
"""Vectors of the hidden width that a layer stores per token for the backward pass. Korthikanti et al. 2022 (equation 2)
count 34 bytes per token and channel, thus 17 values of 2 bytes, if attention stores no score matrix; doubled here for
today's gated MLPs, which are about 3.5 times as wide as the hidden state."""


@dataclass(frozen=True)
class Memory:
    """Bytes by use. `parameters` (of the backbone) and `trainable` (value head included) are numbers of weights."""

    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    cache: int

    @property
    def training(self) -> int:
        """Bytes at the peak of an update."""
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def state(self) -> int:
        """Bytes on disk of a run's saved model state: trained weights and Adam's moments."""
        # A gradient has the size of its weight.
        return self.gradients + self.optimizer

    @property
    def playing(self) -> int:
        """Bytes at the end of the longest reply.

        Without DDP the gradients are freed by then. With several processes under DDP they are not: add them.
        """
        return self.weights + self.optimizer + self.cache


def estimate(source: str | Path, settings: MemorySettings) -> Memory:
    """The memory that a checkpoint, or one of `SHAPES`, needs. Raises ValueError if there is no config at `source`."""
    check_language(source)  # outside of the block below, which would reword its message
    try:
        if source not in SHAPES:
            check_there(source)
        config = (
            shape_of(str(source)) if source in SHAPES else AutoConfig.from_pretrained(source, trust_remote_code=False)
        )
    except Exception as error:  # transformers raises errors of many types for a file that is not a config
        name_code_of_its_own(error, source)
        known = ", ".join(SHAPES)
        raise ValueError(f"no config at {str(source)!r}, and it is none of {known}: {error}") from error
    try:
        return estimate_of(config, settings)
    except ValueError as error:
        name_code_of_its_own(error, source)
        raise


def shape_of(name: str) -> PreTrainedConfig:
    """The transformers config of one of `SHAPES`."""
    return AutoConfig.for_model(**SHAPES[name])


def table(settings: MemorySettings) -> str:
    """A Markdown table of the memory that all `SHAPES` need, in GB (10^9 bytes)."""
    lines = ["| model | parameters | trained | weights | training | playing |", "|---|---|---|---|---|---|"]
    for name in SHAPES:
        memory = estimate(name, settings)
        counts = [f"{count / 1e9:.2f} B" for count in (memory.parameters, memory.trainable)]
        sizes = [f"{size / 1e9:.1f}" for size in (memory.weights, memory.training, memory.playing)]
        lines.append(f"| {' | '.join([name, *counts, *sizes])} |")
    return "\n".join(lines)


def estimate_of(config: PreTrainedConfig, settings: MemorySettings) -> Memory:
    """The memory that a model with this config needs."""
    # On the meta device: shapes without memory.
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
        value_head = ValueHead(model.get_output_embeddings().in_features, settings.value_sizes)
    model.tie_weights()
    width = DTYPES[settings.dtype].itemsize
    parameters = sum(parameter.numel() for parameter in model.parameters())
    adapters = adapter_parameters(model, settings) if settings.lora_rank else 0
    head = sum(parameter.numel() for parameter in value_head.parameters())
    base_trained = 0 if settings.lora_rank else parameters  # with LoRA the backbone is frozen
    # Adapters and value head are float32. Gradients and Adam's moments have the dtype of their weights.
    trained_bytes = base_trained * width + (adapters + head) * FLOAT32
    return Memory(
        parameters=parameters,
        trainable=(base_trained + adapters + head) * settings.train,
        weights=base_bytes(model, settings) + (adapters + head) * FLOAT32,
        gradients=trained_bytes * settings.train,
        optimizer=2 * trained_bytes * settings.train,  # Adam's two moments
        activations=activation_bytes(config, settings) * settings.train,
        cache=cache_bytes(config, settings),
    )


def report(memory: Memory) -> str:
    """The estimate as lines of text, in GB (10^9 bytes)."""
    uses = {**asdict(memory), "training": memory.training, "playing": memory.playing, "state": memory.state}
    counts = [f"{name:14} {uses.pop(name):>15,}" for name in ("parameters", "trainable")]
    return "\n".join([*counts, *(f"{name:14} {size / 1e9:>12.3f} GB" for name, size in uses.items())])


def base_bytes(model: PreTrainedModel, settings: MemorySettings) -> int:
    """Bytes of the backbone's weights. Quantisation covers the linear layers except the output head."""
    width = DTYPES[settings.dtype].itemsize
    total = sum(parameter.numel() for parameter in model.parameters())
    if settings.quantize is None:
        return total * width
    layers = [model.get_parameter(f"{name}.weight") for name in target_layers(model, ALL_LINEAR)]
    shrunk = sum(layer.numel() for layer in layers)
    small = sum(quantized_bytes(layer, settings.quantize) for layer in layers)
    return (total - shrunk) * width + small


def quantized_bytes(weight: torch.Tensor, kind: str) -> int:
    """Bytes of a quantised weight (out, in) of a linear layer with its scales (Dettmers et al. 2022, 2023)."""
    count, rows = weight.numel(), weight.shape[0]
    if kind == "8bit":
        return int(count + rows * FLOAT32)  # one scale per row
    scales = -(-count // BLOCK)  # a byte each, after the second quantisation
    return int(-(-count // 2) + scales + -(-scales // SCALE_BLOCK) * FLOAT32)


def adapter_parameters(model: PreTrainedModel, settings: MemorySettings) -> int:
    """Number of weights in the adapters: two low-rank matrices per target."""
    layers = [model.get_parameter(f"{name}.weight") for name in target_layers(model, settings.targets)]
    matrices = [model.get_parameter(name) for name in target_matrices(model, settings.targets)]
    return sum(settings.lora_rank * sum(weight.shape) for weight in [*layers, *matrices])


def cache_bytes(config: PreTrainedConfig, settings: MemorySettings) -> int:
    """Bytes of the keys and values of `num_envs` sequences. Layers with a sliding window are counted in full."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    each = 2 * text.num_hidden_layers * heads * size * DTYPES[settings.dtype].itemsize
    return int(each * settings.tokens * settings.num_envs)


def activation_bytes(config: PreTrainedConfig, settings: MemorySettings) -> int:
    """Estimated bytes of what vision tower and language model keep for the backward pass, and of the logits."""
    text, width = config.get_text_config(), DTYPES[settings.dtype].itemsize
    kept = []
    # With checkpointing, each layer keeps only its input, and one layer at a time all of its activations.
    for part, tokens in ((config.vision_config, settings.patches), (text, settings.tokens)):
        row = settings.micro_batch_size * tokens * part.hidden_size * width
        each = 1 if settings.gradient_checkpointing else KEPT_PER_TOKEN
        kept.append((part.num_hidden_layers * each + KEPT_PER_TOKEN * settings.gradient_checkpointing) * row)
    # Once in the weights' dtype, three times in float32: scaled, as log-probabilities, and as the gradient of those.
    logits = settings.micro_batch_size * settings.reply * text.vocab_size * (width + 3 * FLOAT32)
    return int(sum(kept) + logits)

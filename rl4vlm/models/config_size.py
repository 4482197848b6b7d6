"""Compares the size of the model that a checkpoint's config describes with its weights, before that model is built.

transformers fills weights that a checkpoint lacks, or has in another shape, with random numbers: a damaged number in
`config.json` can make it claim any amount of memory. Models are built on the meta device here, where they take none.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, PreTrainedConfig

SLACK = 2
"""How many times more weights the config may describe than the files hold: tied ones are stored once, and missing ones
are reported later, by name."""
PACKED = 8
"""The same for a quantised checkpoint: an int32 number holds eight weights of 4 bits."""


def check_size(config: PreTrainedConfig, folder: Path) -> None:
    """Raise ValueError if the config describes a far larger model than the safetensors files of `folder` hold."""
    shapes = stored_shapes(folder)
    if not shapes:  # the weights are elsewhere, or of an older format
        return
    # Checked before building: even on the meta device each layer takes time.
    parts = (config, *(getattr(config, name) for name in config.sub_configs))
    layers = max(getattr(part, name, None) or 0 for part in parts for name in ("num_hidden_layers", "depth"))
    if layers > len(shapes):
        raise ValueError(
            f"config.json asks for {layers:,} layers, but the files at {folder} hold {len(shapes)} tensors"
        )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    asked = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    held = sum(map(math.prod, shapes.values()))
    if asked > held * (PACKED if hasattr(config, "quantization_config") else SLACK):
        raise ValueError(f"config.json asks for {asked:,} weights, but the files at {folder} hold {held:,}")


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in the safetensors files of a folder, by name; reads only the files' headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes

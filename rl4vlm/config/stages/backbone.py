"""How a vision-language model is loaded, and which of its weights are trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import model_validator

from rl4vlm.config.fields import Attention, Count, DType, Pattern, Positive, Quantization, settings

ALL_LINEAR = "all-linear"
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def is_hub_name(text: str) -> bool:
    """Whether a text can be the name of a model on the Hugging Face hub, `owner/model`.

    `models/x` is a path if there is a folder `models` here, and `results/x` always is.
    """
    return bool(_HUB_NAME.fullmatch(text)) and not (Path(text).parent.is_dir() or text.startswith("results/"))


@settings
class LoraSettings:
    """Low-rank adapters; the defaults are the paper's (public code).

    Dropout is 0: PPO compares the same network before and after an update.
    """

    rank: Count = 128
    """Rank of each adapter."""
    alpha: Positive = 256.0
    """Scale of the adapters; it is divided by the rank."""
    targets: Pattern = ALL_LINEAR
    """`all-linear`: every linear layer of vision tower, projector and language model except the output head. Otherwise
    a regular expression that must match the whole name of a linear layer."""


@settings
class BackboneSettings:
    """How the model that a training starts from is loaded."""

    dtype: DType = "float32"
    """Number format of the weights."""
    quantize: Quantization | None = None
    """Store the weights in 4 or 8 bits (needs the extra `quantized`). Training then also needs `lora`."""
    attn_implementation: Attention | None = None
    """The attention implementation, by its name in transformers; null lets transformers choose. It changes speed and
    rounding."""
    one_view: bool = False
    """Show each image only as a whole, without the additional views of its parts that some models use."""
    lora: LoraSettings | None = None
    """Train low-rank adapters; null trains all weights, or the adapters that the checkpoint already has."""
    freeze: Pattern | None = None
    """A regular expression; parameters whose whole name matches it are not trained."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them: less memory, more time, the same result up to
    rounding."""

    @model_validator(mode="after")
    def _is_trainable(self) -> BackboneSettings:
        check_trainable(self.quantize, self.lora)
        return self

    @property
    def loading(self) -> dict[str, Any]:
        """The keyword arguments of `load_backbone`."""
        names = ("dtype", "quantize", "attn_implementation", "one_view", "lora", "freeze")
        return {name: getattr(self, name) for name in names}


def check_trainable(quantize: str | None, lora: LoraSettings | None) -> None:
    """Raise ValueError for settings that would train quantised weights, which have no gradient."""
    if quantize is not None and lora is None:
        raise ValueError(f"quantize {quantize!r}: quantised weights cannot be trained; set lora, too")

"""How a vision-language model is loaded, and which of its weights are trained."""

from __future__ import annotations

import re
from typing import Any

from pydantic import model_validator

from rl4vlm.config.fields import Attention, Count, DType, Pattern, Positive, Quantization, settings

ALL_LINEAR = "all-linear"
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
"""The form of a model's name on the Hugging Face hub."""


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
    """Store the weights in 4 or 8 bits (needs the extra `quantized`). Training them needs `lora`, too."""
    attn_implementation: Attention | None = None
    """How attention is computed, as transformers calls it; null is its choice. It changes speed, and rounding."""
    one_view: bool = False
    """Show each image once, where the model would add views of its parts."""
    lora: LoraSettings | None = None
    """Train low-rank adapters; null trains all weights, or the adapters that the checkpoint already has."""
    freeze: Pattern | None = None
    """A regular expression that must match the whole name of a parameter: those stay as they are."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of storing them: less memory, more time, the same result up to rounding."""

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

"""Settings of `rl4vlm memory`."""

from __future__ import annotations

from pydantic import model_validator

from rl4vlm.config.fields import Count, DType, Natural, Quantization, settings
from rl4vlm.config.stages.backbone import ALL_LINEAR, check_trainable
from rl4vlm.config.stages.ppo import PPOSettings


@settings
class MemorySettings:
    """What the memory of a model is estimated for."""

    dtype: DType = "bfloat16"
    """Number format of the weights."""
    quantize: Quantization | None = None
    """Store the weights in 4 or 8 bits."""
    lora_rank: Natural = 128
    """Rank of the adapters; 0 trains all weights."""
    targets: str = ALL_LINEAR
    """Which linear layers have adapters, as in `lora.targets`."""
    train: bool = True
    """Whether the model is trained; otherwise it only plays."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass instead of storing them."""
    tokens: Count = 1024
    """Tokens of prompt and reply together, including the image."""
    reply: Natural = 256
    """Tokens of the longest reply; they are included in `tokens`."""
    patches: Count = 577
    """Patches of an image that the vision tower sees."""
    micro_batch_size: Count = 1
    """Samples trained on at a time."""
    num_envs: Count = 16
    """Number of environments played at the same time."""
    value_sizes: tuple[Count, ...] = PPOSettings.value_sizes
    """Widths of the hidden layers of the value head."""

    @model_validator(mode="after")
    def _is_trainable(self) -> MemorySettings:
        if self.train and not self.lora_rank:
            check_trainable(self.quantize, None)
        return self

"""Settings of `rl4vlm sft`."""

from __future__ import annotations

from rl4vlm.config.fields import Count, Positive, Seed, Share, Weight, settings
from rl4vlm.config.stages.backbone import BackboneSettings
from rl4vlm.config.stages.training import RunSettings, SavedByTime


@settings
class SFTSettings(BackboneSettings, RunSettings, SavedByTime):
    """Supervised fine-tuning; the defaults are the paper's (LLaVA's recipe)."""

    epochs: Count = 1
    """Number of passes over the demonstrations."""
    batch_size: Count = 64
    """Samples per optimizer step, all processes together."""
    micro_batch_size: Count = 64
    """Samples in memory at a time, per process. It changes memory and speed, but the result only by rounding."""
    learning_rate: Weight = 2e-5
    """Peak of the cosine schedule."""
    muon_learning_rate: Positive | None = None
    """Peak learning rate of hidden matrices, which Muon then trains; null trains all weights with AdamW.
    Needs `dtype: float32`."""
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: Weight = 0.0
    """Weight decay of the optimizer."""
    max_length: Count = 2048
    """Largest length of prompt and reply together, in tokens, including the image. A longer sample is an error, because
    truncation would cut off the action."""
    seed: Seed = 1
    """Seed of the order of the samples and of new weights."""
    tf32: bool = False
    """Let a GPU multiply float32 matrices in TF32, which is several times faster but uses only 11 of the 24 bits of
    each factor's mantissa."""

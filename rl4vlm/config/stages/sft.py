"""Settings of `rl4vlm sft`."""

from __future__ import annotations

from rl4vlm.config.fields import Count, Positive, Seed, Share, Weight, settings
from rl4vlm.config.stages.backbone import BackboneSettings
from rl4vlm.config.stages.training import RunSettings, SavedByTime


@settings
class SFTSettings(BackboneSettings, RunSettings, SavedByTime):
    """Supervised fine-tuning; the defaults are the paper's (LLaVA's recipe)."""

    epochs: Count = 1
    """Passes over the demonstrations."""
    batch_size: Count = 64
    """Samples of one optimiser step, all processes together."""
    micro_batch_size: Count = 64
    """Samples in memory at a time, per process. It changes memory and speed, not the result."""
    learning_rate: Weight = 2e-5
    """Peak of the cosine schedule."""
    muon_learning_rate: Positive | None = None
    """Peak learning rate of hidden matrices, which Muon then trains; null trains all weights with AdamW.
    Needs `dtype: float32`."""
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: Weight = 0.0
    """Weight decay of the optimiser."""
    max_length: Count = 2048
    """Longest prompt and reply, in tokens, image included. A longer sample is an error: cutting it would cut the
    action."""
    seed: Seed = 1
    """Seed of the order of the samples and of new weights."""
    tf32: bool = False
    """Let a GPU multiply float32 matrices in TF32: several times faster, with 11 of 24 bits of each factor."""

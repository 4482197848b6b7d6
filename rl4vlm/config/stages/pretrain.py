"""Settings of `rl4vlm base-model`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field, model_validator

from rl4vlm.config.fields import Count, Device, Natural, Positive, Share, Weight, settings
from rl4vlm.config.stages.training import SavedByTime


@settings
class TinySizes:
    """Sizes of the embedded model."""

    image_size: Count = 160
    """Side of the image in pixels."""
    patch: Count = 20
    """Side of a patch in pixels."""
    width: Count = 128
    """Width of vision tower and language model."""
    vision_layers: Count = 3
    """Layers of the vision tower."""
    language_layers: Count = 3
    """Layers of the language model."""
    heads: Count = 4
    """Attention heads of each layer."""
    mlp: Count = 384
    """Width of the MLPs."""
    vocabulary: Count = 1024
    """Size of the tokenizer's vocabulary."""
    spread: Positive = 0.02
    """Standard deviation of initial weights. With a larger one, a small model learns sooner to copy from its prompt."""
    rope: Positive = 10_000.0
    """Base of the rotary position embedding. With a smaller base, a small model learns sooner to copy from its
    prompt."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> TinySizes:
        # Rotary positions turn pairs of a head's numbers.
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not an even multiple of heads {self.heads}")
        if self.patch > self.image_size:
            raise ValueError(f"patch {self.patch} is larger than image_size {self.image_size}")
        return self

    @property
    def image_tokens(self) -> int:
        """Tokens of an image."""
        return (self.image_size // self.patch) ** 2


@settings
class PretrainSettings(SavedByTime):
    """How the embedded base model is made."""

    pretrain_tasks: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "NumberLine",
        "EZPoints",
        "Points24",
        "Blackjack",
    )
    """Tasks whose images it learns to read."""
    steps: Count = 1500
    """Number of optimizer steps."""
    batch_size: Count = 64
    """Images per optimizer step."""
    learning_rate: Weight = 6e-4
    """Peak of the cosine schedule."""
    muon_learning_rate: Positive | None = None
    """Peak learning rate of hidden matrices, which Muon then trains; null trains all weights with AdamW."""
    weight_decay: Weight = 0.0
    """Weight decay of the optimizer. Muon's matrices grow large without it."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    max_grad_norm: Positive | None = 1.0
    """Largest gradient norm; null does not clip gradients."""
    corpus: Count = 400
    """Number of random states per task that the tokenizer is trained on."""
    probe: Count = 200
    """Number of random states per task on which perception is measured after training."""
    seed: Natural = 1
    """Seed of states, images and weights."""
    device: Device = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    weights: dict[str, Weight] = field(default_factory=dict)
    """Relative sampling weight of each task's images; 1 for a task that is not named."""
    task_env: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Keyword arguments of each task's environment; in a config, `task_options` sets them."""
    sizes: TinySizes = field(default_factory=TinySizes)
    """Sizes of the model."""

    @model_validator(mode="after")
    def _tasks_are_drawn(self) -> PretrainSettings:
        if not any(self.weights.get(task, 1.0) for task in self.pretrain_tasks):
            raise ValueError("weights: none of pretrain_tasks would ever be drawn, as all of their weights are 0")
        return self

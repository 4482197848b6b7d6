"""Settings of `rl4vlm cnn`, the CNN+RL baseline."""

from __future__ import annotations

from dataclasses import field

from pydantic import model_validator

from rl4vlm.config.fields import Count, Positive, Weight, settings
from rl4vlm.config.stages.ppo_training import TrainingSettings

CNN_CONFIG = "cnn.json"
"""The file of a CNN+RL checkpoint with the sizes of its network."""
KERNELS, STRIDES = (8, 4, 3), (4, 2, 1)
"""Side of the kernels and strides of the three convolutions, in pixels."""


@settings
class CNNSizes:
    """Sizes of the network."""

    image_size: Count = 100
    """Side in pixels of the downscaled image that the convolutions see."""
    channels: tuple[Count, Count, Count] = (16, 32, 32)
    """Output channels of the three convolutions."""
    width: Count = 128
    """Width of the layer that joins image and text."""
    text_embedding: Count = 32
    """Size of the embedding of a byte."""
    text_width: Count = 64
    """Size of the GRU's state."""
    text_limit: Count = 256
    """Largest number of bytes of text that are read; from a longer text, the last ones are read."""
    word_buckets: Count = 2048
    """Number of word vectors, for tasks whose actions change with the state."""
    word_width: Count = 64
    """Size of a word vector."""

    @model_validator(mode="after")
    def _convolutions_fit(self) -> CNNSizes:
        if self.map_side < 1:
            raise ValueError(f"image_size {self.image_size} is too small for convolutions of {KERNELS} pixels")
        return self

    @property
    def map_side(self) -> int:
        """Side of the last feature map."""
        side = self.image_size
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            side = (side - kernel) // stride + 1
        return side


@settings
class CNNSettings(TrainingSettings):
    """CNN+RL: a small network without language, trained from scratch by PPO.

    The paper gives no hyperparameters for this baseline. Steps, rollout, epochs, gamma and the GAE lambda are those of
    the method; the others are this project's choice for a network without pre-training.
    """

    num_envs: Count = 16
    minibatch_size: Count = 64
    learning_rate: Weight = 1e-3
    adam_epsilon: Weight = 1e-5
    clip_range: Weight = 0.2
    ent_coef: Weight = 0.01
    max_grad_norm: Positive | None = 0.5
    # At 0 the network would never explore.
    temperature: Positive = 1.0
    """Sampling temperature, in training and in the held-out evaluation of the trained network."""
    sizes: CNNSizes = field(default_factory=CNNSizes)
    """Sizes of the network."""

"""Arithmetic and memory traffic of a LLaVA, counted from its config's shapes: what the method needs, nothing wasted.

A multiplication with the addition after it is two operations (FLOPs). Counted are matrix products and attention over
the pairs that a causal mask leaves; norms, activations and softmax are not. Padding, logits that nobody reads and
passes that are made twice are not needed, so they are not counted: they show as a smaller share of the ceiling.

Legend: P prompt tokens with the picture's, R reply tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from transformers import LlavaConfig

FLOAT32 = 4
ADAM_PASSES = 7
"""Values that an Adam step reads (weight, gradient, two moments) and writes (weight, two moments) for each weight."""


@dataclass(frozen=True)
class Work:
    """FLOPs, and bytes between memory and processor; works add up."""

    flops: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def seconds(self, ceiling: Ceiling) -> float:
        """The least time that it can take: arithmetic and traffic may overlap."""
        return max(self.flops / ceiling.flops, self.bytes / ceiling.bytes)


@dataclass(frozen=True)
class Ceiling:
    """What the hardware does in a second, measured: FLOPs in large matrix products, bytes in large copies."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Part:
    """Linear layers and attention of a vision tower, a projector, a language model or a head.

    `weights` are the sum of in*out over the linear layers, `adapters` that of rank*(in+out) where adapters are trained,
    `trained` says whether the weights themselves are, and `attention` is layers * heads * head size.
    """

    weights: int
    adapters: int = 0
    trained: bool = True
    attention: int = 0

    def forward(self, tokens: float, pairs: float = 0) -> float:
        """FLOPs: each weight meets each token once; queries meet keys, and scores values, in each pair of tokens."""
        return 2 * tokens * (self.weights + self.adapters) + 4 * self.attention * pairs

    def backward(self, tokens: float, pairs: float = 0) -> float:
        """FLOPs: the gradient of what came in, and where weights are trained theirs, each as costly as the forward."""
        linear = 2 * tokens * ((1 + self.trained) * self.weights + 2 * self.adapters)
        return linear + 2 * 4 * self.attention * pairs


@dataclass(frozen=True)
class Counted:
    """A model's parts: FLOPs and bytes of what PPO does with it. `width` is the bytes of a weight, `patches` and
    `places` what the vision tower sees of a picture and what the language model is given of it, `kv` the bytes of one
    token's keys and values, `trained` the weights that the optimiser steps, of `trained_width` bytes."""

    patch: Part
    vision: Part
    projector: Part
    text: Part
    head: Part
    value: Part
    patches: int
    places: int
    width: int
    kv: int
    trained: int
    trained_width: int

    @property
    def decoder_bytes(self) -> int:
        """Bytes of the weights that each new token needs."""
        base = self.text.weights + self.head.weights
        return base * self.width + self.text.adapters * FLOAT32

    @property
    def all_bytes(self) -> int:
        """Bytes of the weights of all linear layers."""
        parts = (self.patch, self.vision, self.projector, self.text, self.head)
        return sum(part.weights * self.width + part.adapters * FLOAT32 for part in parts)

    def image(self) -> float:
        """FLOPs from one picture to what stands for it among the language model's tokens."""
        seen = self.patches**2
        tower = self.patch.forward(self.places) + self.vision.forward(self.patches, seen)
        return tower + self.projector.forward(self.places)

    def prefill(self, prompt: float, batch: int) -> Work:
        """`batch` prompts, up to the first reply token's logits and the critic's value."""
        text = self.text.forward(prompt, causal(prompt)) + self.head.forward(1) + self.value.forward(1)
        return Work(batch * (self.image() + text), self.all_bytes + batch * prompt * self.kv)

    def decode(self, prompt: float, reply: float, batch: int) -> Work:
        """The tokens of `batch` replies but the first: weights are read once for all, keys and values by each."""
        tokens, pairs = reply - 1, causal(prompt + reply - 1) - causal(prompt)
        flops = self.text.forward(tokens, pairs) + self.head.forward(tokens)
        return Work(batch * flops, tokens * self.decoder_bytes + batch * pairs * self.kv)

    def score(self, prompt: float, reply: float, batch: int) -> Work:
        """`batch` stored replies: one forward pass, logits of the reply alone."""
        tokens = prompt + reply
        text = self.text.forward(tokens, causal(tokens)) + self.head.forward(reply) + self.value.forward(1)
        return Work(batch * (self.image() + text), self.all_bytes)

    def update(self, prompt: float, reply: float, batch: int) -> Work:
        """Forward and backward pass of `batch` stored replies; weights are read once forward and twice back."""
        tokens = prompt + reply
        vision = self.patch.backward(self.places) + self.vision.backward(self.patches, self.patches**2)
        text = self.text.backward(tokens, causal(tokens)) + self.head.backward(reply) + self.value.backward(1)
        back = vision + self.projector.backward(self.places) + text
        return self.score(prompt, reply, batch) + Work(batch * back, 2 * self.all_bytes)

    def optimiser_step(self) -> Work:
        """One step of Adam, which is all traffic."""
        return Work(0.0, ADAM_PASSES * self.trained * self.trained_width)


def causal(tokens: float) -> float:
    """Pairs of a token with itself or an earlier one."""
    return tokens * (tokens + 1) / 2


def count(config: LlavaConfig, *, width: int, rank: int = 0, value_sizes: Sequence[int] = (1024, 512)) -> Counted:
    """The parts of a LLaVA with a CLIP tower and a Llama or Mistral, one view a picture.

    Args:
        config: the shapes.
        width: bytes of a weight: 4 in float32, 2 in bfloat16.
        rank: of adapters on every linear layer but the head, in float32; 0 trains all weights.
        value_sizes: the value head's hidden layers.
    """
    vision, text = config.vision_config, config.text_config
    places = (vision.image_size // vision.patch_size) ** 2
    layers = used_layers(config)
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv = (getattr(text, "num_key_value_heads", None) or heads) * size
    query, mlp, hidden = heads * size, text.intermediate_size, text.hidden_size
    seen = vision.hidden_size
    in_vision = [(seen, seen)] * 4 + [(seen, vision.intermediate_size), (vision.intermediate_size, seen)]
    in_text = [(hidden, query), (hidden, kv), (hidden, kv), (query, hidden), *[(hidden, mlp)] * 2, (mlp, hidden)]
    in_value = list(pairwise([hidden, *value_sizes, 1]))
    parts = {
        "patch": Part(3 * vision.patch_size**2 * seen, trained=not rank),
        "vision": part(in_vision, layers, rank, attention=layers * seen),
        "projector": part([(seen, hidden), (hidden, hidden)], 1, rank),
        "text": part(in_text, text.num_hidden_layers, rank, attention=text.num_hidden_layers * query),
        "head": Part(hidden * text.vocab_size, trained=not rank),
        "value": part(in_value, 1, 0),
    }
    stepped = sum(one.adapters or (one.weights if one.trained else 0) for one in parts.values())
    return Counted(
        **parts,
        patches=places + 1,
        places=places,
        width=width,
        kv=2 * text.num_hidden_layers * kv * width,
        trained=stepped,
        trained_width=FLOAT32 if rank else width,
    )


def part(layers: Sequence[tuple[int, int]], times: int, rank: int, attention: int = 0) -> Part:
    """`times` blocks of linear layers (in, out), each with an adapter of `rank` where that is not 0."""
    weights = times * sum(inner * outer for inner, outer in layers)
    adapters = times * rank * sum(inner + outer for inner, outer in layers)
    return Part(weights, adapters, not rank, attention)


def used_layers(config: LlavaConfig) -> int:
    """Layers of the vision tower up to the one whose output is used: LLaVA takes the last but one."""
    layer, there = config.vision_feature_layer, config.vision_config.num_hidden_layers
    return int(layer if layer >= 0 else there + 1 + layer)

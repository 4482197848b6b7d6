"""Counts the least arithmetic and memory traffic that PPO needs for a LLaVA, from its config's shapes.

A multiplication and the addition after it count as two operations (FLOPs). Matrix products count, and so does attention
over the pairs of tokens that a causal mask leaves. Norms, activations and softmax do not count. Neither does avoidable
work, such as padding, unused logits and repeated passes: it shows as a smaller share of the ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from transformers import LlavaConfig

FLOAT32 = 4
ADAM_PASSES = 7
"""Values that an Adam step reads (weight, gradient, two moments) and writes (weight, two moments) per weight."""


@dataclass(frozen=True)
class Work:
    """FLOPs, and bytes moved between memory and processor."""

    flops: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def seconds(self, ceiling: Ceiling) -> float:
        """The least time in seconds. Arithmetic and traffic can overlap, so the slower one decides."""
        return max(self.flops / ceiling.flops, self.bytes / ceiling.bytes)


@dataclass(frozen=True)
class Ceiling:
    """Measured limits of the hardware: FLOPs per second in large matrix products, bytes per second in large copies."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Part:
    """Linear layers and attention of a vision tower, a projector, a language model or a head.

    Attributes:
        weights: sum of in*out over the linear layers.
        adapters: sum of rank*(in+out) over the LoRA adapters; 0 without adapters.
        trained: whether the weights themselves are trained.
        attention: layers * heads * head size.
    """

    weights: int
    adapters: int = 0
    trained: bool = True
    attention: int = 0

    def forward(self, tokens: float, pairs: float = 0) -> float:
        """FLOPs of a forward pass over `tokens` tokens, with attention over `pairs` pairs of tokens."""
        return 2 * tokens * (self.weights + self.adapters) + 4 * self.attention * pairs

    def backward(self, tokens: float, pairs: float = 0) -> float:
        """FLOPs of a backward pass."""
        # The gradient of the input costs as much as the forward pass. So does that of the weights, if they are trained.
        linear = 2 * tokens * ((1 + self.trained) * self.weights + 2 * self.adapters)
        return linear + 2 * 4 * self.attention * pairs


@dataclass(frozen=True)
class Counted:
    """The parts of a model, and the FLOPs and bytes of each phase of PPO.

    Attributes:
        patches: tokens of one image in the vision tower, with the class token.
        places: tokens of one image in the language model.
        width: bytes per weight.
        kv: bytes per token of keys and values.
        trained: number of weights that the optimizer updates.
        trained_width: bytes per trained weight.
        frozen_vision: whether the vision tower is not trained, so that nothing goes back through it.
    """

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
    frozen_vision: bool = False

    @property
    def decoder_bytes(self) -> int:
        """Bytes of the weights read for each generated token."""
        base = self.text.weights + self.head.weights
        return base * self.width + self.text.adapters * FLOAT32

    @property
    def all_bytes(self) -> int:
        """Bytes of the weights of all linear layers."""
        parts = (self.patch, self.vision, self.projector, self.text, self.head)
        return sum(part.weights * self.width + part.adapters * FLOAT32 for part in parts)

    def image(self) -> float:
        """FLOPs from one image to its tokens in the language model."""
        seen = self.patches**2
        tower = self.patch.forward(self.places) + self.vision.forward(self.patches, seen)
        return tower + self.projector.forward(self.places)

    def prefill(self, prompt: float, batch: int) -> Work:
        """Process `batch` prompts, up to the logits of the first reply token and the value."""
        text = self.text.forward(prompt, causal(prompt)) + self.head.forward(1) + self.value.forward(1)
        return Work(batch * (self.image() + text), self.all_bytes + batch * prompt * self.kv)

    def decode(self, prompt: float, reply: float, batch: int) -> Work:
        """Generate all tokens of `batch` replies except the first."""
        # Each step reads the weights once for the whole batch, and the keys and values of every row.
        tokens, pairs = reply - 1, causal(prompt + reply - 1) - causal(prompt)
        flops = self.text.forward(tokens, pairs) + self.head.forward(tokens)
        return Work(batch * flops, tokens * self.decoder_bytes + batch * pairs * self.kv)

    def score(self, prompt: float, reply: float, batch: int) -> Work:
        """Score `batch` stored replies: one forward pass, with logits for the reply tokens only."""
        tokens = prompt + reply
        text = self.text.forward(tokens, causal(tokens)) + self.head.forward(reply) + self.value.forward(1)
        return Work(batch * (self.image() + text), self.all_bytes)

    def update(self, prompt: float, reply: float, batch: int) -> Work:
        """Forward and backward pass of `batch` stored replies."""
        # The forward pass reads the weights once, the backward pass twice.
        tokens = prompt + reply
        vision = 0.0
        if not self.frozen_vision:
            vision = self.patch.backward(self.places) + self.vision.backward(self.patches, self.patches**2)
        text = self.text.backward(tokens, causal(tokens)) + self.head.backward(reply) + self.value.backward(1)
        back = vision + self.projector.backward(self.places) + text
        return self.score(prompt, reply, batch) + Work(batch * back, 2 * self.all_bytes)

    def optimizer_step(self) -> Work:
        """One step of Adam. Its arithmetic is negligible next to its memory traffic."""
        return Work(0.0, ADAM_PASSES * self.trained * self.trained_width)


def causal(tokens: float) -> float:
    """Number of pairs of a token with itself or an earlier token."""
    return tokens * (tokens + 1) / 2


def count(
    config: LlavaConfig,
    *,
    width: int,
    rank: int = 0,
    value_sizes: Sequence[int] = (1024, 512),
    frozen_vision: bool = False,
) -> Counted:
    """Count the parts of a LLaVA with a CLIP vision tower and a Llama or Mistral, with one view per image.

    Args:
        config: the shapes.
        width: bytes per weight: 4 in float32, 2 in bfloat16.
        rank: rank of float32 LoRA adapters on every linear layer except the head; 0 trains all weights.
        value_sizes: sizes of the value head's hidden layers.
        frozen_vision: whether the vision tower is not trained.
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
    learning = [one for name, one in parts.items() if not (frozen_vision and name in ("patch", "vision"))]
    stepped = sum(one.adapters or (one.weights if one.trained else 0) for one in learning)
    return Counted(
        **parts,
        patches=places + 1,
        places=places,
        width=width,
        kv=2 * text.num_hidden_layers * kv * width,
        trained=stepped,
        trained_width=FLOAT32 if rank else width,
        frozen_vision=frozen_vision,
    )


def part(layers: Sequence[tuple[int, int]], times: int, rank: int, attention: int = 0) -> Part:
    """Count `times` blocks of linear layers (in, out), with LoRA adapters if `rank` is not 0."""
    weights = times * sum(inner * outer for inner, outer in layers)
    adapters = times * rank * sum(inner + outer for inner, outer in layers)
    return Part(weights, adapters, not rank, attention)


def used_layers(config: LlavaConfig) -> int:
    """Number of vision layers up to the one whose output is used. LLaVA uses the last but one."""
    layer, there = config.vision_feature_layer, config.vision_config.num_hidden_layers
    return int(layer if layer >= 0 else there + 1 + layer)

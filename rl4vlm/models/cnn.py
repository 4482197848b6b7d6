"""The policy and the critic of the CNN+RL baseline: one small network from an image to the index of an action.

The paper names this baseline without details; the network is this project's own choice (docs/algorithm.md).

Legend: B batch, A actions (the largest number in the batch if samples differ), N commands of all samples together,
S side of the downscaled image, W width of a word's vector.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.cnn import CNN_CONFIG, KERNELS, STRIDES, CNNSizes
from rl4vlm.core.files import read_json
from rl4vlm.core.output import check_unchanged
from rl4vlm.core.types import View
from rl4vlm.models.weights import check_finite_weights, read_weights, saving
from rl4vlm.results.provenance import meant_checkpoint

WEIGHTS_FILE = "cnn.safetensors"
BYTES = 256


@dataclass(frozen=True)
class Observation:
    """The network's input at one step.

    Attributes:
        image: (3, S, S) uint8.
        text: bytes (length,) int64; empty if the network reads no text.
        legal: which actions are legal (A,) bool.
        fields: word buckets (length,) int64 of each of the network's `fields`.
        commands: word buckets (length,) int64 of each legal command; empty if the actions are fixed.
    """

    image: torch.Tensor
    text: torch.Tensor
    legal: torch.Tensor
    fields: tuple[torch.Tensor, ...] = ()
    commands: tuple[torch.Tensor, ...] = ()


class CNNActorCritic(nn.Module):
    """Three convolutions on the image, a joint layer, and two linear heads, for the policy and for the value.

    With fixed actions the policy head gives a logit for each; if the state also has text, a GRU reads its bytes.

    Without fixed actions (ALFWorld) the network scores the commands of each step: a command's logit is the dot product
    of the mean of its words' vectors with the policy head's output. The text comes in as the mean word vector of each
    field.

    Args:
        actions: the fixed actions, or None.
        reads_text: whether a GRU reads the view's fields.
        sizes: sizes of the layers.
        temperature: sampling temperature, part of the policy. 0 plays greedily and scores at temperature 1.
        fields: names of the view's fields that are read as words.
    """

    def __init__(
        self,
        actions: Sequence[str] | None,
        *,
        reads_text: bool,
        sizes: CNNSizes,
        temperature: float,
        fields: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.actions = None if actions is None else tuple(actions)
        self.reads_text = reads_text
        self.fields = tuple(fields)
        self.sizes = sizes
        self.temperature = temperature
        layers: list[nn.Module] = []
        before = 3  # colour channels
        for after, kernel, stride in zip(sizes.channels, KERNELS, STRIDES, strict=True):
            layers += [_orthogonal(nn.Conv2d(before, after, kernel, stride), 2**0.5), nn.ReLU()]  # ReLU's gain
            before = after
        # Flatten instead of pooling: what a number means depends on where in the image it is.
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.embedding = nn.Embedding(BYTES, sizes.text_embedding) if reads_text else None
        self.gru = nn.GRU(sizes.text_embedding, sizes.text_width, batch_first=True) if reads_text else None
        reads_words = self.actions is None
        self.words = nn.EmbeddingBag(sizes.word_buckets, sizes.word_width, mode="mean") if reads_words else None
        features = before * sizes.map_side**2 + (sizes.text_width if reads_text else 0)
        features += sizes.word_width * len(self.fields)
        self.joint = nn.Sequential(_orthogonal(nn.Linear(features, sizes.width), 2**0.5), nn.ReLU())
        # With a small gain, the initial policy is almost uniform.
        scored = sizes.word_width if self.actions is None else len(self.actions)
        self.policy_head = _orthogonal(nn.Linear(sizes.width, scored), 0.01)
        self.value_head = _orthogonal(nn.Linear(sizes.width, 1), 1.0)

    @property
    def device(self) -> torch.device:
        return self.value_head.weight.device

    def observe(self, image: np.ndarray, view: View) -> Observation:
        """Make the network's input from an image (height, width, 3) uint8 and a view.

        Raises:
            ValueError: the view has a legal action that the network does not know.
        """
        offered = self.offered(view)
        unknown = [action for action in view.actions if action not in offered]
        if unknown:
            raise ValueError(f"the CNN knows the actions {', '.join(offered)}, not {unknown[0]!r}")
        text = text_of(view.fields).encode()[-self.sizes.text_limit :] if self.reads_text else b""
        read = [view.fields.get(name, "") for name in self.fields]
        commands = offered if self.actions is None else ()
        return Observation(
            downscale(image, self.sizes.image_size),
            torch.tensor(list(text), dtype=torch.long),
            torch.tensor([action in view.actions for action in offered]),  # the mask of legal actions
            tuple(word_buckets(name, self.sizes.word_buckets) for name in read),
            tuple(word_buckets(name, self.sizes.word_buckets) for name in commands),
        )

    def offered(self, view: View) -> tuple[str, ...]:
        """The actions that the network's indices stand for at this step."""
        return view.actions if self.actions is None else self.actions

    def forward(self, observations: Sequence[Observation]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (B, A) of the policy, -inf for illegal actions, and values (B,)."""
        images = torch.stack([one.image for one in observations]).to(self.device)
        features = [self.convolutions(images.float() / 255 - 0.5)]  # pixels centred around 0
        if self.embedding is not None and self.gru is not None:
            features.append(self._read([one.text for one in observations]))
        if self.words is not None:
            bags = self._bags([words for one in observations for words in one.fields])
            features.append(bags.reshape(len(observations), -1))
        joint = self.joint(torch.cat(features, dim=-1))
        legal = pad_sequence([one.legal for one in observations], batch_first=True).to(self.device)
        logits = self._logits(joint, observations) / (self.temperature or 1.0)
        log_probs = torch.log_softmax(logits.masked_fill(~legal, -torch.inf), dim=-1)
        return log_probs, self.value_head(joint).squeeze(-1)

    def _read(self, texts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The GRU's state (B, text_width) after each text."""
        assert self.embedding is not None
        assert self.gru is not None
        lengths = torch.tensor([len(text) for text in texts])
        embedded = self.embedding(pad_sequence(list(texts), batch_first=True).to(self.device))
        # Packed, so that the state is the one after the text's last byte and not after its padding.
        _, state = self.gru(pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False))
        return state[0]

    def _logits(self, joint: torch.Tensor, observations: Sequence[Observation]) -> torch.Tensor:
        """Logits (B, A); 0 in the padding, which `legal` masks."""
        scored = self.policy_head(joint)
        if self.words is None:
            return scored
        counts = [len(one.commands) for one in observations]  # differs from sample to sample
        commands_NW = self._bags([words for one in observations for words in one.commands])
        states_NW = scored.repeat_interleave(torch.tensor(counts, device=self.device), dim=0)
        return pad_sequence(list((commands_NW * states_NW).sum(-1).split(counts)), batch_first=True)

    def _bags(self, texts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The mean word vector of each text, (texts, W); zeros for a text without words."""
        assert self.words is not None
        if not texts:  # a network without fields
            return self.words.weight.new_zeros(0, self.sizes.word_width)
        # EmbeddingBag takes all words in one row, and where each text starts in it.
        ends = np.cumsum([len(text) for text in texts])
        starts = torch.tensor([0, *ends[:-1]], device=self.device)
        bags: torch.Tensor = self.words(torch.cat(list(texts)).to(self.device), starts)
        return bags

    @torch.no_grad()
    def act(
        self, observations: Sequence[Observation], rngs: Sequence[np.random.Generator]
    ) -> tuple[list[int], list[float], list[float]]:
        """Sample an action per observation, each with its own generator.

        Returns:
            The actions' indices, their log-probabilities, and the critic's values.
        """
        log_probs, values = (tensor.cpu() for tensor in self(observations))
        keys = log_probs  # at temperature 0, the most likely action
        if self.temperature:
            # Gumbel-max: adding Gumbel noise to log-probabilities and taking the largest samples from the policy.
            pairs = zip(rngs, observations, strict=True)
            noise = [torch.as_tensor(rng.gumbel(size=len(one.legal)), dtype=torch.float32) for rng, one in pairs]
            keys = log_probs + pad_sequence(noise, batch_first=True)
        chosen = keys.argmax(-1)
        taken = log_probs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        return chosen.tolist(), taken.tolist(), values.tolist()

    @torch.no_grad()
    def values(self, observations: Sequence[Observation]) -> np.ndarray:
        """The critic's values (B,) float64 of observations."""
        return self(observations)[1].double().cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write the weights and the constructor's arguments to an existing folder.

        Raises:
            ValueError: a weight is not finite.
        """
        check_finite_weights(self.named_parameters(), folder / WEIGHTS_FILE)
        config = {
            "actions": self.actions,
            "reads_text": self.reads_text,
            "fields": self.fields,
            "sizes": asdict(self.sizes),
        }
        (folder / CNN_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        with saving(folder):
            save_file(self.state_dict(), folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: str | Path, *, temperature: float, device: torch.device | None = None) -> CNNActorCritic:
        """Load a checkpoint that `save` wrote. Raises ValueError if there is none in `folder`, or it is damaged."""
        path = Path(folder, CNN_CONFIG)
        if not path.is_file():
            raise ValueError(
                f"no CNN checkpoint at {str(folder)!r}: it holds no {CNN_CONFIG}{meant_checkpoint(folder)}"
            )
        check_unchanged(Path(folder))
        config, weights = read_json(path), read_weights(Path(folder, WEIGHTS_FILE))
        try:
            # On the meta device, where it takes no memory: a damaged size in the config could ask for any amount.
            with torch.device("meta"):
                model = cls(
                    config["actions"],
                    reads_text=config["reads_text"],
                    sizes=build_settings(CNNSizes, config["sizes"]),
                    temperature=temperature,
                    fields=config["fields"],
                )
            # Cloned: inside a file, weights are not aligned in memory, which changes how products are rounded.
            model.load_state_dict({name: weight.clone() for name, weight in weights.items()}, assign=True)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} does not describe the network of {WEIGHTS_FILE}: {error}") from error
        return model.to(device) if device is not None else model


def text_of(fields: Mapping[str, str]) -> str:
    """A view's fields as text, a sorted line `name: value` per field. Never empty, since a GRU needs a byte to read."""
    return "\n".join(f"{name}: {fields[name]}" for name in sorted(fields)) or "\n"


@lru_cache(maxsize=100_000)
def word_buckets(text: str, buckets: int) -> torch.Tensor:
    """Bucket numbers (length,) int64 of the words of a text.

    Words are letters or numbers. A word that a number follows also counts together with it: `shelf 1` is `shelf` and
    `shelf 1`. The result is cached, so do not change it.
    """
    found = re.findall(r"[a-z]+(?: \d+)?|\d+", text.lower())
    words = [part for word in found for part in dict.fromkeys((word.partition(" ")[0], word))]
    # CRC-32 needs no vocabulary and, unlike `hash`, is the same in every process.
    return torch.tensor([zlib.crc32(word.encode()) % buckets for word in words], dtype=torch.long)


def downscale(image: np.ndarray, side: int) -> torch.Tensor:
    """Scale an image (height, width, 3) uint8 to (3, side, side) uint8; each pixel is the mean of those it covers."""
    channels = _buffer(image.shape[:2]).copy_(torch.from_numpy(image).permute(2, 0, 1))
    return nn.functional.interpolate(channels[None], (side, side), mode="area")[0].round().to(torch.uint8)


@lru_cache(maxsize=4)
def _buffer(size: tuple[int, int]) -> torch.Tensor:
    """Memory (3, height, width) for one image at a time.

    With new memory for each image, the stored small images end up between freed large ones: a rollout of 512 steps took
    2 GB.
    """
    return torch.empty(3, *size)


def _orthogonal(layer: Any, gain: float) -> Any:
    """Initialise a layer with orthogonal weights of this gain and zero bias; returns the layer."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer

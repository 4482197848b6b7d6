"""The policy and the critic of the CNN+RL baseline: one small network from a picture to an action's index.

The paper names such a baseline and gives no details of it; what is here is this project's own (docs/algorithm.md).

Legend: B batch, A actions, S side of the downscaled picture, L longest text of a batch in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from rl4vlm.core.settings import build_settings
from rl4vlm.core.types import View

CONFIG_FILE, WEIGHTS_FILE = "cnn.json", "cnn.safetensors"
BYTES = 256
KERNELS, STRIDES = (8, 4, 3), (4, 2, 1)


@dataclass(frozen=True)
class CNNSizes:
    """How large the network is.

    `picture` is the side in pixels of what the convolutions see, `channels` what each of the three gives, `width` the
    layer that joins picture and text. `text_embedding` and `text_width` are the sizes of a byte's vector and of the
    GRU's state; of a longer text only the last `text_limit` bytes are read.
    """

    picture: int = 100
    channels: tuple[int, int, int] = (16, 32, 32)
    width: int = 128
    text_embedding: int = 32
    text_width: int = 64
    text_limit: int = 256

    def __post_init__(self) -> None:
        if self.map_side < 1:
            raise ValueError(f"picture {self.picture} is too small for convolutions of {KERNELS} pixels")
        if self.text_limit < 1:
            raise ValueError(f"text_limit {self.text_limit} is less than 1")

    @property
    def map_side(self) -> int:
        """Side of the last feature map."""
        side = self.picture
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            side = (side - kernel) // stride + 1
        return side


@dataclass(frozen=True)
class Observation:
    """What the network is shown at one step: `picture` (3, S, S) uint8, `text` (length,) int64 of bytes (empty where
    the network reads none) and `legal` (A,) bool."""

    picture: torch.Tensor
    text: torch.Tensor
    legal: torch.Tensor


class CNNActorCritic(nn.Module):
    """Three convolutions on the picture and, with `reads_text`, a GRU on the bytes of the view's fields; one joint
    layer; a linear head for the logits of `actions` and one for the value.

    `temperature` is the sampling temperature, part of the policy; 0 plays greedily and scores at temperature 1.
    """

    def __init__(self, actions: Sequence[str], *, reads_text: bool, sizes: CNNSizes, temperature: float) -> None:
        super().__init__()
        self.actions = tuple(actions)
        self.reads_text = reads_text
        self.sizes = sizes
        self.temperature = temperature
        layers: list[nn.Module] = []
        before = 3
        for after, kernel, stride in zip(sizes.channels, KERNELS, STRIDES, strict=True):
            layers += [_orthogonal(nn.Conv2d(before, after, kernel, stride), 2**0.5), nn.ReLU()]
            before = after
        # Flattened, not pooled: what a number means depends on where it stands.
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.embedding = nn.Embedding(BYTES, sizes.text_embedding) if reads_text else None
        self.gru = nn.GRU(sizes.text_embedding, sizes.text_width, batch_first=True) if reads_text else None
        features = before * sizes.map_side**2 + (sizes.text_width if reads_text else 0)
        self.joint = nn.Sequential(_orthogonal(nn.Linear(features, sizes.width), 2**0.5), nn.ReLU())
        # A small gain makes the first policy all but uniform.
        self.policy_head = _orthogonal(nn.Linear(sizes.width, len(self.actions)), 0.01)
        self.value_head = _orthogonal(nn.Linear(sizes.width, 1), 1.0)

    @property
    def device(self) -> torch.device:
        return self.value_head.weight.device

    def observe(self, picture: np.ndarray, view: View) -> Observation:
        """What the network is shown of a picture (height, width, 3) uint8 and a view.

        Raises:
            ValueError: a legal action that the network does not know.
        """
        unknown = [action for action in view.actions if action not in self.actions]
        if unknown:
            raise ValueError(f"the CNN knows the actions {', '.join(self.actions)}, not {unknown[0]!r}")
        text = text_of(view.fields).encode()[-self.sizes.text_limit :] if self.reads_text else b""
        return Observation(
            downscale(picture, self.sizes.picture),
            torch.tensor(list(text), dtype=torch.long),
            torch.tensor([action in view.actions for action in self.actions]),
        )

    def forward(self, observations: Sequence[Observation]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (B, A) of the policy, -inf for actions that are not legal, and values (B,)."""
        pictures = torch.stack([one.picture for one in observations]).to(self.device)
        features = [self.convolutions(pictures.float() / 255 - 0.5)]
        if self.embedding is not None and self.gru is not None:
            features.append(self._read([one.text for one in observations]))
        joint = self.joint(torch.cat(features, dim=-1))
        legal = torch.stack([one.legal for one in observations]).to(self.device)
        logits = self.policy_head(joint) / (self.temperature or 1.0)
        log_probs = torch.log_softmax(logits.masked_fill(~legal, -torch.inf), dim=-1)
        return log_probs, self.value_head(joint).squeeze(-1)

    def _read(self, texts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The GRU's state (B, text_width) after the last byte of each text."""
        assert self.embedding is not None
        assert self.gru is not None
        lengths = torch.tensor([len(text) for text in texts])
        embedded = self.embedding(pad_sequence(list(texts), batch_first=True).to(self.device))
        _, state = self.gru(pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False))
        return state[0]

    @torch.no_grad()
    def act(
        self, observations: Sequence[Observation], rngs: Sequence[np.random.Generator]
    ) -> tuple[list[int], list[float], list[float]]:
        """Actions by index, each sampled from its own stream (Gumbel-max), their log-probabilities, and the values."""
        log_probs, values = (tensor.cpu() for tensor in self(observations))
        keys = log_probs
        if self.temperature:
            noise = np.stack([rng.gumbel(size=len(self.actions)) for rng in rngs])
            keys = log_probs + torch.as_tensor(noise, dtype=torch.float32)
        chosen = keys.argmax(-1)
        taken = log_probs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        return chosen.tolist(), taken.tolist(), values.tolist()

    @torch.no_grad()
    def values(self, observations: Sequence[Observation]) -> np.ndarray:
        """The critic's values (B,) float64."""
        return self(observations)[1].double().cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write the weights and what the network is made of to a folder that is there."""
        config = {"actions": self.actions, "reads_text": self.reads_text, "sizes": asdict(self.sizes)}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(self.state_dict(), folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: str | Path, *, temperature: float, device: torch.device | None = None) -> CNNActorCritic:
        """Read what `save` wrote. Raises ValueError when there is no such thing in `folder`."""
        path = Path(folder, CONFIG_FILE)
        if not path.is_file():
            raise ValueError(f"no CNN checkpoint at {str(folder)!r}: it holds no {CONFIG_FILE}")
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        model = cls(
            config["actions"],
            reads_text=config["reads_text"],
            sizes=build_settings(CNNSizes, config["sizes"]),
            temperature=temperature,
        )
        model.load_state_dict(load_file(Path(folder, WEIGHTS_FILE)))
        return model.to(device) if device is not None else model


def text_of(fields: Mapping[str, str]) -> str:
    """A view's fields as one text that is never empty: a line `name: value` each, in the order of their names."""
    return "\n".join(f"{name}: {fields[name]}" for name in sorted(fields)) or "\n"


def downscale(picture: np.ndarray, side: int) -> torch.Tensor:
    """A picture (height, width, 3) uint8 as (3, side, side) uint8, each pixel the mean of those it stands for."""
    channels = torch.from_numpy(picture).permute(2, 0, 1).float()
    return nn.functional.interpolate(channels[None], (side, side), mode="area")[0].round().to(torch.uint8)


def _orthogonal(layer: Any, gain: float) -> Any:
    """`layer` with orthogonal weights of this gain and no bias to begin with."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer

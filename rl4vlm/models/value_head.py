"""The critic: a small MLP on the final hidden state of the prompt's last token (paper, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from rl4vlm.models.weights import check_finite_weights, read_weights, saving

FILE = "value_head.safetensors"


class ValueHead(nn.Module):
    """An MLP with ReLU, from a hidden state to one value. It is float32 unless changed, whatever the backbone's dtype.

    Args:
        hidden: width of the hidden state.
        sizes: widths of the hidden layers.
    """

    def __init__(self, hidden: int, sizes: Sequence[int]) -> None:
        super().__init__()
        widths = [hidden, *sizes]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, hidden_BD: torch.Tensor) -> torch.Tensor:
        """Values (B,) float32 of hidden states (B, D)."""
        # Cloned, since FSDP warns if a module returns a view.
        return self.layers(hidden_BD.to(next(self.layers.parameters()).dtype)).squeeze(-1).clone()

    def save(self, folder: Path) -> None:
        """Write the weights beside a checkpoint. Raises ValueError if one is not finite."""
        check_finite_weights(self.named_parameters(), folder / FILE)
        with saving(folder):
            save_file(self.state_dict(), folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> ValueHead:
        """Read a value head that `save` wrote. Its sizes follow from the shapes of the stored weights.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        weights = read_weights(folder / FILE)
        # Names are `layers.0.weight`, `layers.2.weight`, ... (ReLUs take the odd numbers): sort by number, not as text.
        try:
            names = sorted(
                (name for name in weights if name.endswith("weight")), key=lambda name: int(name.split(".")[1])
            )
            layers = [weights[name] for name in names]
            head = cls(layers[0].shape[1], [layer.shape[0] for layer in layers[:-1]])
            head.load_state_dict(weights)
        except (IndexError, RuntimeError, ValueError) as error:
            raise ValueError(f"{folder / FILE} is no value head: {error}") from error
        return head

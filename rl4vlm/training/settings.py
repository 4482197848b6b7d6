"""Settings that every training has, and every training of a vision-language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rl4vlm.models.lora import LoraSettings, check_trainable


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where and how a training runs; none of it changes what it comes to.

    A run that keeps its state saves it every `save_every` steps of the kind that its own settings say. Each of several
    processes waits at most `process_timeout` seconds for the others. `loggers` get the metrics, too.
    """

    save_every: int = 1
    process_timeout: float = 1800.0
    device: str = "auto"
    loggers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise ValueError(f"save_every {self.save_every} is less than 1")


@dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """How the model that a training starts from is loaded; all but the last are those of `load_backbone`.

    Without `lora` all weights are trained, or the adapters that the checkpoint has. `gradient_checkpointing` computes
    activations twice instead of keeping them.
    """

    dtype: str = "float32"
    quantize: str | None = None
    one_view: bool = False
    lora: LoraSettings | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        check_trainable(self.quantize, self.lora)

    @property
    def loading(self) -> dict[str, Any]:
        """The keyword arguments of `load_backbone`."""
        return {name: getattr(self, name) for name in ("dtype", "quantize", "one_view", "lora")}

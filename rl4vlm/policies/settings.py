"""How a policy is loaded and what it plays in, wherever it plays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rl4vlm.policies.registry import VLM_OPTIONS


@dataclass(frozen=True)
class PlaySettings:
    """`temperature` to `device` say how a learned policy is loaded. `env` holds keyword arguments of the environment,
    `prompt` texts that replace the task's own, `api` settings of a policy that asks over HTTP."""

    temperature: float = 0.2
    max_new_tokens: int = 256
    dtype: str = "float32"
    quantize: str | None = None
    one_view: bool = False
    device: str = "auto"
    env: dict[str, Any] = field(default_factory=dict)
    prompt: dict[str, str] = field(default_factory=dict)
    api: dict[str, Any] = field(default_factory=dict)

    @property
    def loading(self) -> dict[str, Any]:
        """The keyword arguments of `make_policy`."""
        always = {name: getattr(self, name) for name in ("temperature", "max_new_tokens", "dtype", "device", "api")}
        return always | {name: getattr(self, name) for name in VLM_OPTIONS if getattr(self, name)}

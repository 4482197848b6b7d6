"""Settings of `rl4vlm evaluate` and `rl4vlm play`."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from pydantic import model_validator

from rl4vlm.config.fields import (
    Attention,
    Count,
    Device,
    DType,
    KVCache,
    Natural,
    Positive,
    Quantization,
    Weight,
    settings,
)
from rl4vlm.config.stages.training import SavedByTime
from rl4vlm.core.seeding import VALIDATION_SEEDS_FROM

VLM_OPTIONS = ("quantize", "attn_implementation", "kv_cache", "one_view", "engine", "engine_cache_gb")
"""Settings that only a vision-language model has. They are passed to a policy only if they differ from the default."""


@settings
class PlaySettings:
    """How a policy is loaded and what it plays in."""

    temperature: Weight = 0.2
    """Sampling temperature; 0 is greedy."""
    max_new_tokens: Count = 256
    """Longest reply, in tokens."""
    dtype: DType = "float32"
    """Number format of the weights."""
    quantize: Quantization | None = None
    """Store the weights in 4 or 8 bits (needs the extra `quantized`)."""
    attn_implementation: Attention | None = None
    """The attention implementation, by its name in transformers; null lets transformers choose. It changes speed and
    rounding."""
    kv_cache: KVCache | None = None
    """Whether the KV cache has a fixed size while a reply is generated, like `kv_cache` of `ppo`."""
    one_view: bool = False
    """Show each image only as a whole, without the additional views of its parts that some models use."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What samples the replies (docs/throughput.md). `vllm` keeps a second copy of the weights and draws different
    random numbers."""
    engine_cache_gb: Positive = 8.0
    """Memory for the KV cache of `engine: vllm`, in GB."""
    device: Device = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    env: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment; in a config, `task_options` and `evaluation.sets` set them."""
    prompt: dict[str, str] = field(default_factory=dict)
    """Texts that replace parts of the task's prompt; in a config, `task_options` sets them."""
    api: dict[str, Any] = field(default_factory=dict)
    """Settings of a policy over HTTP, as in an entry of `api_models`."""

    @model_validator(mode="after")
    def _engine_fits(self) -> PlaySettings:
        if self.engine == "vllm" and self.quantize is not None:
            raise ValueError("engine vllm does not work with quantize")
        return self

    @property
    def loading(self) -> dict[str, Any]:
        """The keyword arguments of `make_policy`."""
        always = {name: getattr(self, name) for name in ("temperature", "max_new_tokens", "dtype", "device", "api")}
        return always | {
            name: value for name in VLM_OPTIONS if (value := getattr(self, name)) != getattr(PlaySettings, name)
        }


@settings
class EvaluationSettings(PlaySettings, SavedByTime):
    """Held-out evaluation."""

    episodes: Count = 200
    """Number of episodes."""
    each_game_once: bool = False
    """For ALFWorld: play at most as many episodes as a set has games, so that no game is played twice. A game that
    `skip_bad_games` skips has no episode then; otherwise another game is played in its place."""
    num_envs: Count = 64
    """Number of episodes played at the same time. It changes speed, not the result, up to rounding."""
    seed_base: Natural = 1_000_000_000
    """Seed of the first episode; the next episodes have consecutive seeds. Training and its validation use none of
    these seeds."""
    games: str = ""
    """Name of the set of games that `env` chooses; in a config, `evaluation.sets` sets it."""

    @model_validator(mode="after")
    def _seeds_are_held_out(self) -> EvaluationSettings:
        if self.seed_base > VALIDATION_SEEDS_FROM - self.episodes:
            raise ValueError(
                f"seed_base {self.seed_base} leads into the seeds of validation and training, from "
                f"{VALIDATION_SEEDS_FROM}"
            )
        return self

    @property
    def seeds(self) -> range:
        """The seeds of the episodes."""
        return range(self.seed_base, self.seed_base + self.episodes)

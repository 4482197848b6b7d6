"""Settings of `rl4vlm ppo`."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pydantic import model_validator

from rl4vlm.config.fields import Count, KVCache, Natural, Positive, Share, Weight, settings
from rl4vlm.config.stages.backbone import BackboneSettings
from rl4vlm.config.stages.ppo_training import TrainingSettings


@settings
class DefectSettings:
    """Defects of the public code (docs/fidelity.md), to measure the cost of each. Only an ablation turns them on."""

    first_prompt: bool = False
    """Score every reply under the run's first prompt instead of its own prompt."""
    schedule_steps: Count = 1
    """Steps of the learning rate schedule per update. The public code makes one step for each process, so the learning
    rate depends on their number and rises again before the run ends."""
    dropped_tokens: Natural = 0
    """Number of tokens at the start of a reply that are left out of its log-probability; 2 in the public code."""
    dropout: Share = 0.0
    """Dropout that stays on while replies are sampled and scored, on the inputs of the adapters, or of all linear
    layers if the model has no adapters; 0.05 in the public code. With dropout, a resumed run differs from an
    uninterrupted one."""


@settings
class PPOSettings(BackboneSettings, TrainingSettings):
    """PPO fine-tuning; the defaults are the paper's for NumberLine (public code and section 6)."""

    micro_batch_size: Count | None = 1
    thought_prob_coef: Share = 0.5
    """The paper's lambda (section 4.3): weight of the thoughts in the log-probability of an action."""
    max_new_tokens: Count = 256
    """Longest reply, in tokens."""
    kv_cache: KVCache | None = None
    """Whether the KV cache has a fixed size (`static`) or grows (`dynamic`) while a reply is generated. With a fixed
    size, the forward pass for one token can be compiled with CUDA graphs. Null means static on a GPU, if the model's
    class allows it (docs/backbones.md), FSDP does not shard the model and the machine can compile (docs/install.md),
    and dynamic otherwise. `static` under FSDP is an error. It changes speed, memory and rounding."""
    value_sizes: tuple[Count, ...] = (1024, 512)
    """Widths of the hidden layers of a new value head."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What samples the replies. `vllm` (docs/throughput.md) keeps a second copy of the weights, which is updated before
    every rollout and validation. It rounds differently from the trained model, so it needs `importance_cap`."""
    engine_cache_gb: Positive = 8.0
    """Memory for the KV cache of `engine: vllm`, in GB."""
    detach_value: bool = False
    """Whether the value loss trains only the value head, and not the weights that the head shares with the policy."""
    kl_coef: Weight = 0.0
    """Weight of the KL divergence from the checkpoint that the run started from, in nats per reply. With noisy rewards,
    it keeps the model from forgetting how to read images and word its thoughts. It needs a second copy of the model."""
    defects: DefectSettings = field(default_factory=DefectSettings)
    """Defects of the public code, for an ablation."""
    prompt: dict[str, str] = field(default_factory=dict)
    """Texts that replace parts of the task's prompt; in a config, `task_options` sets them."""

    @model_validator(mode="after")
    def _engine_fits(self) -> PPOSettings:
        if self.engine == "vllm":
            if self.importance_cap is None:
                raise ValueError("engine vllm needs importance_cap, such as 2: it and the model round differently")
            if self.quantize is not None or self.defects.dropout:
                raise ValueError("engine vllm works neither with quantize nor with defects.dropout")
        return self

"""Settings of `rl4vlm ppo`."""

from __future__ import annotations

from dataclasses import field

from rl4vlm.config.fields import Count, Share, Weight, settings
from rl4vlm.config.stages.backbone import BackboneSettings
from rl4vlm.config.stages.ppo_training import TrainingSettings


@settings
class PPOSettings(BackboneSettings, TrainingSettings):
    """PPO fine-tuning; the defaults are the paper's for NumberLine (public code and section 6)."""

    micro_batch_size: Count | None = 1
    thought_prob_coef: Share = 0.5
    """The paper's lambda (section 4.3): weight of the thoughts in the log-probability of an action."""
    max_new_tokens: Count = 256
    """Longest reply, in tokens."""
    value_sizes: tuple[Count, ...] = (1024, 512)
    """Widths of the hidden layers of a new value head."""
    detach_value: bool = False
    """Whether the value loss trains the value head alone, and leaves the weights that it shares with the policy."""
    kl_coef: Weight = 0.0
    """Weight of the KL divergence of the replies from those of the checkpoint that the run started from, in nats per
    reply. It keeps reading and wording alive where rewards are noisy, and needs a second copy of the model."""
    prompt: dict[str, str] = field(default_factory=dict)
    """Texts that replace parts of the task's prompt; in a config, `task_options` sets them."""

"""Settings of `rl4vlm sft-data`."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from rl4vlm.config.fields import Count, Natural, Share, settings
from rl4vlm.config.stages.training import SavedByTime


@settings
class SFTDataSettings(SavedByTime):
    """How demonstrations are made."""

    samples: Count = 20_000
    """Number of samples, each a prompt with its reply."""
    seed: Natural = 1
    """Seed of the games and of the random actions."""
    action_noise: Share = 0.0
    """Probability that the demonstrator writes and plays a random legal action, while its thoughts stay the solver's.
    More noise makes a weaker warm start."""
    wording: Literal["fixed", "varied"] = "fixed"
    """Wording of the thoughts: `fixed` has one wording per state, `varied` draws one of hundreds with the same meaning
    (only NumberLine and EZPoints)."""
    env: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment; in a config, `task_options` sets them."""
    demonstrator: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the environment, for demonstrations only, such as `expert`, which chooses the
    demonstrator."""
    prompt: dict[str, str] = field(default_factory=dict)
    """Texts that replace parts of the task's prompt; in a config, `task_options` sets them."""

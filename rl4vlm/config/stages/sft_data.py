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
    """Question-and-answer pairs."""
    seed: Natural = 1
    """Seed of the games and of the random actions."""
    action_noise: Share = 0.0
    """Probability that the demonstrator writes and plays a random legal action, while its thoughts stay the solver's.
    The larger it is, the weaker the warm start."""
    wording: Literal["fixed", "varied"] = "fixed"
    """How the demonstrator words its thoughts: `fixed` has one wording for each state, `varied` draws one of hundreds
    that say the same (NumberLine and EZPoints)."""
    env: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment; in a config, `task_options` sets them."""
    demonstrator: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the environment for demonstrations alone, such as which `expert` is asked."""
    prompt: dict[str, str] = field(default_factory=dict)
    """Texts that replace parts of the task's prompt; in a config, `task_options` sets them."""

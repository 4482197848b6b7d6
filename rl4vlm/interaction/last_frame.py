"""An environment wrapper that keeps the last frame, for showing episodes to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rl4vlm.core.types import ExpertAction, GameEnv, View


class LastFrame:
    """Plays as `env` does and keeps the last `image` and `info` that it returned.

    The play loop makes no request for the state that ends an episode, so that state can be seen only here.
    """

    def __init__(self, env: GameEnv) -> None:
        self.env = env
        self.image: np.ndarray | None = None
        self.info: dict[str, Any] = {}

    @property
    def np_random(self) -> np.random.Generator:
        return self.env.np_random

    @np_random.setter
    def np_random(self, generator: np.random.Generator) -> None:
        self.env.np_random = generator

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.image, self.info = self.env.reset(seed=seed, options=options)
        return self.image, self.info

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.image, reward, terminated, truncated, self.info = self.env.step(action)
        return self.image, reward, terminated, truncated, self.info

    def view(self) -> View:
        return self.env.view()

    def expert_action(self) -> ExpertAction:
        return self.env.expert_action()

    def perception(self) -> Mapping[str, str]:
        return self.env.perception()

    def close(self) -> None:
        self.env.close()

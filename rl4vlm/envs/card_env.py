"""The Gymnasium environment of every card game."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from rl4vlm.core.types import ExpertAction, View
from rl4vlm.envs.render import SIDE, check_card_art, draw
from rl4vlm.tasks.base import RULES, CardTask
from rl4vlm.tasks.registry import get_task, get_task_entry


class CardEnv(gymnasium.Env[np.ndarray, int]):
    """A card game as a Gymnasium environment.

    Observation: an image, (300, 300, 3) uint8, a new array at each step. Action: the index of an action word in
    `view().actions`. The task's docstring describes rewards, episode end and `info`. `reset(seed=…)` reproduces the
    whole episode, and `reset(options=…)` sets its start. All random numbers come from this environment's `np_random`.

    Args:
        task: name of a registered card game.
        rules: which formulas win, `"strict"` or `"upstream"` (see `FormulaGame`).
        card_art: folder of card images to use in place of the default cards.
        render_mode: None or `"rgb_array"`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (as gymnasium has it)
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"rules": RULES}

    def __init__(
        self,
        task: str,
        rules: str = "strict",
        card_art: str | Path | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode must be 'rgb_array' or None, not {render_mode!r}; to see a game, "
                f"`rl4vlm play {task}` shows it in the terminal, and gymnasium.make, with pygame, in a window"
            )
        found = get_task(task, rules=rules)
        if not isinstance(found, CardTask):
            raise ValueError(f"task {task!r} is not a card game: its environment is {get_task_entry(task).env}")
        self.task: CardTask[Any] = found
        self.card_art = check_card_art(card_art)
        self.render_mode = render_mode
        self.observation_space = _images()
        self.action_space: spaces.Discrete = spaces.Discrete(len(self.task.actions))  # type: ignore[assignment]
        self._state: Any = None
        self._over = True

    def __getstate__(self) -> dict[str, Any]:
        # Leave out the observation space: its bounds take four times the memory of an image and never change.
        return {name: value for name, value in vars(self).items() if name != "observation_space"}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        vars(self).update(saved)
        self.observation_space = _images()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. Raises ValueError for an option that the task does not have, or a wrong value of one."""
        super().reset(seed=seed)
        self._state = self.task.start(self.np_random, options)
        self._over = False
        return self._image(), self.task.info(self._state)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play the action of this index. Raises ValueError for any other index, ResetNeeded if the episode is over."""
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over or has not begun: call reset first")
        if not self.action_space.contains(action):
            raise ValueError(f"action must be an index from 0 to {self.action_space.n - 1}, not {action!r}")
        after = self.task.transition(self._state, self.task.actions[action], self.np_random)
        self._state, self._over = after.state, after.terminated or after.truncated
        return self._image(), after.reward, after.terminated, after.truncated, self.task.info(self._state)

    def render(self) -> np.ndarray | None:
        """The current image in mode `rgb_array`, else None."""
        return self._image() if self.render_mode == "rgb_array" else None

    def view(self) -> View:
        """The action words, in the order of `step`'s index, and the values that the prompt is filled with."""
        return View(self.task.actions, self.task.fields(self._current()))

    def expert_action(self) -> ExpertAction:
        """The action of the task's solver in the current state."""
        return self.task.solve(self._current())

    def perception(self) -> Mapping[str, str]:
        """The text of each field that a player must read off the current image."""
        return self.task.perception(self._current())

    def _current(self) -> Any:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset first")
        return self._state

    def _image(self) -> np.ndarray:
        return draw(self.task.scene(self._current()), self.card_art)


def _images() -> spaces.Box:
    return spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

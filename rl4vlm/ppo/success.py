"""How often the policy wins while it trains: over training episodes, and on seeds held out for validation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.core.seeding import validation_seeds
from rl4vlm.core.types import Episode, Policy, Step
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.episodes import play_episodes
from rl4vlm.interaction.play import Slot
from rl4vlm.ppo.rollout import Transition


class RecentEpisodes:
    """The last training episodes in the order in which they began.

    An episode counts once all episodes that began no later than it have ended. In the order in which they end, short
    episodes come first: in a game that is won quickly and lost slowly, the first rates would all be 100 %.

    Attributes:
        window: the last `size` episodes that count.
    """

    def __init__(self, size: int, num_envs: int) -> None:
        """`size` is the length of the window, `num_envs` the number of environments of all processes."""
        self.window: deque[Episode] = deque(maxlen=size)
        self._step = 0
        # By environment, the step at which its running episode began.
        self._began = [0] * num_envs
        # Episodes that have ended but do not count yet: the step at which each began, its environment, the episode.
        self._waiting: list[tuple[int, int, Episode]] = []

    def add(self, steps: Sequence[Sequence[Transition]]) -> None:
        """Add the episodes of a rollout: the transitions (steps, envs) of all processes."""
        for step in steps:
            self._step += 1
            for env, transition in enumerate(step):
                if transition.episode is not None:
                    self._waiting.append((self._began[env], env, transition.episode))
                    self._began[env] = self._step
        oldest = min(self._began)
        self._waiting.sort(key=lambda ended: ended[:2])
        self.window.extend(episode for began, _, episode in self._waiting if began < oldest)
        self._waiting = [ended for ended in self._waiting if ended[0] >= oldest]

    def state(self) -> dict[str, Any]:
        """The window and the episodes that do not count yet, as plain data."""
        return {"window": [*self.window], "step": self._step, "began": self._began, "waiting": self._waiting}

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        self.window.extend(saved["window"])
        self._step, self._began, self._waiting = saved["step"], saved["began"], saved["waiting"]


def validate(
    policy: Policy,
    slots: Sequence[Slot],
    settings: TrainingSettings,
    rank: int,
    processes: int,
    on_episode: Callable[[int, Sequence[Step]], None] | None = None,
) -> list[bool]:
    """Play this process's share of the validation episodes; returns whether each was won.

    They are the same episodes at every call, of the game, style and prompt that the slots play. After each episode,
    `on_episode` gets its index in the share, from 0, and its steps. Without it no steps are kept: their images would
    take a lot of memory.
    """
    one = slots[0]
    seeds = validation_seeds(settings.validation_episodes)[rank::processes]
    keep: Callable[[Step], Any] = (lambda step: step) if on_episode else (lambda step: None)
    new_env = partial(make_env, one.task.name, **settings.env)
    played = play_episodes(new_env, one.task, policy, one.style, one.parts, seeds, len(slots), keep=keep)
    won = []
    for number, (episode, steps) in enumerate(played):
        if on_episode:
            on_episode(number, steps)
        won.append(episode.success)
    return won

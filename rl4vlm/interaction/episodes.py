"""Plays one episode per seed, several at once, for evaluation and PPO's validation."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Generic, TypeVar

from rl4vlm.core.types import Episode, GameEnv, GameSkipped, Policy, PromptParts, Step, Style
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.tasks.base import Task

Kept = TypeVar("Kept")
"""What is kept of a step."""


class EpisodePlay(Generic[Kept]):
    """Plays one episode per seed, up to `num_envs` of them at once.

    An episode depends on its seed alone, through `env.reset(seed=seed)` and `stream(seed, "sampling")`. It does not
    depend on `num_envs` or on the other seeds, except that a model rounds differently in batches of another shape. Play
    that continues from a `state` has the same batches as without interruption, so even these replies are the same.

    A seed has no episode if the environment skips its game (GameSkipped). The next seed begins at once in its place, so
    the batch stays as large as it would be without the skipped seed.

    Args:
        make_env: makes one environment; called at most `num_envs` times.
        task: the game that is played.
        style: how replies should be written.
        parts: the texts of the prompt.
        seeds: one per episode, without duplicates.
        num_envs: how many environments are played at once, and so the largest batch.
        keep: what to keep of each step. Whole steps with their images need much memory.

    Raises:
        ValueError: `num_envs` is less than 1, or a seed is repeated.
    """

    def __init__(
        self,
        make_env: Callable[[], GameEnv],
        task: Task,
        style: Style,
        parts: PromptParts,
        seeds: Sequence[int],
        num_envs: int,
        keep: Callable[[Step], Kept],
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs {num_envs} is less than 1")
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is repeated: it would give the same episode twice")
        self._new_slot = lambda env, seed: Slot(env, task, style, parts, seed, endless=False)
        self._make_env, self._num_envs, self._keep = make_env, num_envs, keep
        self._waiting = deque(seeds)
        self._unreturned = deque(seeds)
        self._slots: list[Slot] = []
        self._resumed: deque[Mapping[str, Any]] = deque()
        # By seed: the steps of running episodes, and of finished ones until it is their turn.
        self._steps: dict[int, list[Kept]] = {}
        self._finished: dict[int, Episode] = {}

    def turns(
        self, policy: Policy, should_continue: Callable[[Episode], bool] = lambda _: True
    ) -> Iterator[list[tuple[Episode, list[Kept]]]]:
        """Play to the end, one step of all environments at a time.

        Args:
            policy: answers the requests.
            should_continue: called with each finished episode. Once it returns False, running episodes are finished
                and no new ones begin.

        Yields:
            After each step, the finished episodes that come next in the order of the seeds, each with what `keep`
            returned for its steps.
        """
        with ExitStack() as opened:
            while len(self._slots) < self._num_envs and (self._resumed or self._waiting):
                env = self._make_env()
                opened.callback(env.close)
                resumed = self._resume_next(env) if self._resumed else None
                if slot := resumed or self._begin_next(env):
                    self._slots.append(slot)
            while self._slots:
                # Towards the end there are fewer seeds than environments, and the batch becomes smaller.
                running = []
                for slot, step in zip(self._slots, advance(self._slots, policy), strict=True):
                    assert slot.seed is not None
                    self._steps.setdefault(slot.seed, []).append(self._keep(step))
                    if step.episode is None:
                        running.append(slot)
                        continue
                    self._finished[slot.seed] = step.episode
                    if not should_continue(step.episode):
                        self._waiting.clear()
                    if following := self._begin_next(slot.env):
                        running.append(following)
                self._slots = running
                yield self._returned()
            # Left over if the only episode that they waited for was skipped when play continued.
            if finished := self._returned():
                yield finished

    def _returned(self) -> list[tuple[Episode, list[Kept]]]:
        """The finished episodes whose turn it is. Short ones wait for longer ones that began earlier."""
        found = []
        while self._unreturned and self._unreturned[0] in self._finished:
            seed = self._unreturned.popleft()
            found.append((self._finished.pop(seed), self._steps.pop(seed)))
        return found

    def _begin_next(self, env: GameEnv) -> Slot | None:
        """Begin the first waiting episode whose game is not skipped. None if there is none."""
        while self._waiting:
            seed = self._waiting.popleft()
            try:
                return self._new_slot(env, seed)
            except GameSkipped:
                self._skip(seed)
        return None

    def _resume_next(self, env: GameEnv) -> Slot | None:
        """Continue the next saved episode. None if its game could be started then, but is skipped now."""
        saved = self._resumed.popleft()
        seed = saved["seed"]
        try:
            slot = self._new_slot(env, seed)
            try:
                slot.load_state(saved)
            except ValueError as error:
                print(f"note: the episode of seed {seed} begins again: {error}", file=sys.stderr)
                slot.start(seed)
                self._steps[seed] = []
        except GameSkipped as error:
            print(f"note: the episode of seed {seed} is left out: {error}", file=sys.stderr)
            self._skip(seed)
            return None
        return slot

    def _skip(self, seed: int) -> None:
        """Leave out the episode of a seed."""
        self._unreturned.remove(seed)
        self._steps.pop(seed, None)

    @property
    def complete(self) -> bool:
        """Whether the episodes of all seeds have been returned, except for skipped ones."""
        return not self._unreturned

    def state(self) -> dict[str, Any]:
        """What is left to play, to be saved between two turns; JSON can hold it if it can hold what `keep` returns.

        Episodes that `turns` has yielded are not in it.
        """
        return {
            "waiting": [*self._waiting],
            "unreturned": [*self._unreturned],
            "running": [slot.state() for slot in self._slots],
            "steps": [*self._steps.items()],
            "finished": [asdict(episode) for episode in self._finished.values()],
        }

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Continue from a saved `state` of the same seeds. Call this before `turns`.

        The actions of running episodes are replayed. If an environment reaches another state, as a simulator may, its
        episode is played again from the beginning, with a note. If its game can no longer be started and is skipped,
        the episode is left out: why it fails has nothing to do with how it was played, so this does not bias the rest.
        """
        self._waiting, self._unreturned = deque(saved["waiting"]), deque(saved["unreturned"])
        self._resumed = deque(saved["running"])
        self._steps = {seed: [*steps] for seed, steps in saved["steps"]}
        self._finished = {episode["seed"]: Episode(**episode) for episode in saved["finished"]}


def play_episodes(
    make_env: Callable[[], GameEnv],
    task: Task,
    policy: Policy,
    style: Style,
    parts: PromptParts,
    seeds: Sequence[int],
    num_envs: int,
    should_continue: Callable[[Episode], bool] = lambda _: True,
    *,
    keep: Callable[[Step], Kept],
) -> Iterator[tuple[Episode, list[Kept]]]:
    """Play one episode per seed, and yield each with what is kept of its steps, in the order of `seeds`.

    The arguments are those of `EpisodePlay` and its `turns`.
    """
    play = EpisodePlay(make_env, task, style, parts, seeds, num_envs, keep)
    for finished in play.turns(policy, should_continue):
        yield from finished

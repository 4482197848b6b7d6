"""The one play loop: SFT data, PPO, evaluation and API baselines all step their environments here.

A slot is one environment with its random streams and the question it asks now. `advance` puts the questions of many
slots to a policy in one batch and plays the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from rl4vlm.core.seeding import stream, training_env_seed
from rl4vlm.core.types import Episode, GameEnv, Parsed, Policy, PromptParts, Reply, Request, SplitStepEnv, Step, Style
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.interaction.prompt import render
from rl4vlm.tasks.base import Task


class Slot:
    """One environment at play: its streams, the `request` it asks now, and the count of the running episode.

    The sampling stream (`request.rng`) is the policy's, `env.np_random` the game's and the fallbacks'. A slot made
    with `endless` false stops after an episode until `start` is called again.
    """

    def __init__(
        self,
        env: GameEnv,
        task: Task,
        style: Style,
        parts: PromptParts,
        seed: int,
        *,
        endless: bool = True,
    ) -> None:
        """Reset `env` for endless play: its first episode and all after it come from streams that `seed` names.

        With `endless` false the first episode is the one that `env.reset(seed=seed)` gives.
        """
        self.env = env
        self.task = task
        self.style = style
        self.parts = parts
        self.endless = endless
        self._request: Request | None = None
        self._sent: tuple[Request, Reply, Parsed, int] | None = None
        self.start(seed)

    @property
    def stopped(self) -> bool:
        """Whether the episode is over and no other has been started."""
        return self._request is None

    @property
    def request(self) -> Request:
        """The question that the environment asks now. Raises ValueError when the slot has stopped."""
        if self._request is None:
            raise ValueError("the slot has no episode to go on with: start one")
        return self._request

    def start(self, seed: int) -> None:
        """Begin an episode, with both streams begun anew from `seed`."""
        self.rng = stream(seed, "sampling")
        self._reset(training_env_seed(seed) if self.endless else seed)

    def play(self, reply: Reply) -> Step:
        """Read `reply` to the current request, take the step it asks for, and move on to the next request."""
        self.send(reply)
        return self.receive()

    def send(self, reply: Reply) -> None:
        """The first half of `play`: read the reply. An environment that has `step_async` begins its step now."""
        request = self.request
        parsed = parse_reply(reply.text, request.view.actions)
        index = self._index(parsed, request)
        self._sent = (request, reply, parsed, index)
        if isinstance(self.env, SplitStepEnv):
            self.env.step_async(index)

    def receive(self) -> Step:
        """The second half of `play`: the step that was sent, taken and counted."""
        if self._sent is None:
            raise ValueError("no reply was sent that a step could come of")
        (request, reply, parsed, index), self._sent = self._sent, None
        result = self.env.step_wait() if isinstance(self.env, SplitStepEnv) else self.env.step(index)
        image, reward, terminated, truncated, info = result
        fallback = parsed.action is None
        earned = float(reward) + (self.task.fallback_penalty if fallback else 0.0)
        self._total += earned
        self._length += 1
        self._fallbacks += fallback
        done = bool(terminated or truncated)
        step = Step(
            request=request,
            reply=reply,
            parsed=parsed,
            action=request.view.actions[index],
            fallback=fallback,
            reward=earned,
            terminated=bool(terminated),
            truncated=bool(truncated),
            info=info,
            final_request=self._ask(image) if truncated and not terminated else None,
            episode=self._episode(info) if done else None,
        )
        if not done:
            self._request = self._ask(image)
        elif self.endless:
            self._reset(None)
        else:
            self._request = None
        return step

    def _reset(self, seed: int | None) -> None:
        self.seed = seed
        self._total, self._length, self._fallbacks = 0.0, 0, 0
        image, _ = self.env.reset() if seed is None else self.env.reset(seed=seed)
        self._request = self._ask(image)

    def _ask(self, image: np.ndarray) -> Request:
        """The question for what the environment shows now: always its current view, so never a stale prompt."""
        view = self.env.view()
        return Request(image, render(self.parts, view, self.style), view, self.rng, self.env)

    def _index(self, parsed: Parsed, request: Request) -> int:
        """The action's index; where no legal action was found, a uniform draw from the environment's own stream."""
        if parsed.action is None:
            return int(self.env.np_random.integers(len(request.view.actions)))
        return request.view.actions.index(parsed.action)

    def _episode(self, info: Mapping[str, Any]) -> Episode:
        return Episode(
            seed=self.seed,
            total_reward=self._total,
            length=self._length,
            success=bool(self.task.succeeded(self._total, info)),
            fallbacks=self._fallbacks,
            group=self.task.group(info),
            data_source=self.task.data_source(info),
        )


def advance(slots: Sequence[Slot], policy: Policy) -> list[Step]:
    """Play one step in every slot, with one batched call of the policy; the steps come in the slots' order.

    Environments that can (`SplitStepEnv`) take their steps at the same time. An endless slot whose episode ended has
    begun its next one; the step that ended it holds the `episode`.

    Raises:
        ValueError: the policy did not give one reply a request, or a slot has stopped.
    """
    replies = policy.act([slot.request for slot in slots])
    if len(replies) != len(slots):
        raise ValueError(f"policy {type(policy).__name__} gave {len(replies)} replies to {len(slots)} requests")
    for slot, reply in zip(slots, replies, strict=True):
        slot.send(reply)
    return [slot.receive() for slot in slots]


def play_episodes(
    make_env: Callable[[], GameEnv],
    task: Task,
    policy: Policy,
    style: Style,
    parts: PromptParts,
    seeds: Sequence[int],
    num_envs: int,
    go_on: Callable[[Episode], bool] = lambda _: True,
) -> Iterator[tuple[Episode, list[Step]]]:
    """Play one episode a seed, up to `num_envs` of them at once, and yield them in the order of `seeds`.

    An episode depends on its seed alone: `env.reset(seed=seed)` and the sampling stream `stream(seed, "sampling")`.
    `go_on` is asked after each episode whether to begin another; once it says no, those that run are played to their
    end and no more begin.

    Raises:
        ValueError: `num_envs` is less than 1, or a seed comes twice.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs {num_envs} is less than 1")
    if len(set(seeds)) != len(seeds):
        raise ValueError("a seed comes twice: it would be the same episode")
    waiting = iter(seeds)
    slots: list[Slot] = []
    played: dict[int, list[Step]] = {}
    finished: dict[int, tuple[Episode, list[Step]]] = {}
    turn = 0
    with ExitStack() as opened:
        for _, seed in zip(range(num_envs), waiting, strict=False):
            env = make_env()
            opened.callback(env.close)
            slots.append(Slot(env, task, style, parts, seed, endless=False))
        while slots:
            for slot, step in zip(slots, advance(slots, policy), strict=True):
                assert slot.seed is not None
                played.setdefault(slot.seed, []).append(step)
                if step.episode is None:
                    continue
                finished[slot.seed] = (step.episode, played.pop(slot.seed))
                if not go_on(step.episode):
                    waiting = iter(())
                following = next(waiting, None)
                if following is not None:
                    slot.start(following)
            slots = [slot for slot in slots if not slot.stopped]
            while turn < len(seeds) and seeds[turn] in finished:
                yield finished.pop(seeds[turn])
                turn += 1

"""The one play loop: SFT data, PPO, evaluation and API baselines all step their environments here.

A slot is one environment with its random streams and its current request. `advance` passes the requests of many slots
to a policy in one batch and plays the replies.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rl4vlm.core.seeding import stream, training_env_seed
from rl4vlm.core.types import (
    CarryingEnv,
    Episode,
    GameEnv,
    Outcome,
    Parsed,
    Policy,
    PromptParts,
    Reply,
    Request,
    SplitStepEnv,
    Step,
    Style,
)
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.interaction.prompt import render
from rl4vlm.tasks.base import Task


class Slot:
    """One environment being played: its random streams, its current `request`, and the counts of the running episode.

    There are two streams. The policy samples from `request.rng`; the game and the fallback actions use
    `env.np_random`. So how much a policy draws does not change the game.
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
        """Reset `env` and make the first request.

        Args:
            env: the environment; the slot is its only user.
            task: the game's rules about success, penalties and groups.
            style: how replies should be written.
            parts: the texts of the prompt.
            seed: both streams derive from it. If not `endless`, the first episode is that of `env.reset(seed=seed)`.
            endless: begin the next episode by itself when one ends. If False, the slot stops until `start` is called.
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
        """Whether the episode is over and no new one has been started."""
        return self._request is None

    @property
    def request(self) -> Request:
        """The current request. Raises ValueError if the slot has stopped."""
        if self._request is None:
            raise ValueError("the slot's episode is over: call `start` to begin another one")
        return self._request

    def start(self, seed: int) -> None:
        """Begin an episode, with both streams seeded anew from `seed`."""
        self.rng = stream(seed, "sampling")
        # Endless play is training. Its seeds are kept apart from those of the held-out episodes.
        self._reset(training_env_seed(seed) if self.endless else seed)

    def play(self, reply: Reply) -> Step:
        """Take the step that `reply` names, and move on to the next request."""
        self.send(reply)
        return self.receive()

    def send(self, reply: Reply) -> None:
        """The first half of `play`: parse the reply. An environment that has `step_async` begins its step now."""
        request = self.request
        # A policy that needed to know where the action starts has parsed its reply already.
        parsed = reply.parsed or parse_reply(reply.text, request.view.actions, request.view.aliases)
        index = self._index(parsed, request)
        self._sent = (request, reply, parsed, index)
        if isinstance(self.env, SplitStepEnv):
            self.env.step_async(index)

    def receive(self) -> Step:
        """The second half of `play`: finish the step and count it.

        Raises:
            ValueError: no reply was sent, or the environment's reward is no finite number.
        """
        if self._sent is None:
            raise ValueError("no reply was sent: call `send` before `receive`")
        (request, reply, parsed, index), self._sent = self._sent, None
        result = self.env.step_wait() if isinstance(self.env, SplitStepEnv) else self.env.step(index)
        image, reward, terminated, truncated, info = result
        fallback = parsed.action is None
        self._played.append((index, fallback))
        earned = self._finite(reward) + (self.task.fallback_penalty if fallback else 0.0)
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
            # Rendered before the reset below, so that it shows the state that was cut off.
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

    def state(self) -> dict[str, Any]:
        """The slot's state as plain data: how its episode began, the actions since, and both random streams."""
        return {**self._begun, "played": [*self._played], "rng": self.rng.bit_generator.state, "now": self._now()}

    def load_state(self, saved: Mapping[str, Any]) -> None:
        """Restore a saved `state`, by beginning the same episode and repeating its actions.

        Raises:
            ValueError: the environment does not reach the saved state.
        """
        if isinstance(self.env, CarryingEnv):
            self.env.carry(saved["carried"])
        if saved["env_rng"] is not None:
            self.env.np_random.bit_generator.state = saved["env_rng"]
        self._reset(saved["seed"])
        try:
            for index, fallback in saved["played"]:
                action = None if fallback else self.request.view.actions[index]
                self.play(Reply("", parsed=Parsed(action, None, Outcome.OK)))
        except IndexError:
            pass  # fewer legal actions than when it was saved: the check below fails
        self.rng.bit_generator.state = saved["rng"]
        if self._now() != saved["now"]:
            raise ValueError(
                f"{type(self.env).__name__} did not come back to where it was saved: its episodes depend on more than "
                "np_random, actions and what `carried` returns (docs/resume.md)"
            )

    def load_or_abandon(self, saved: Mapping[str, Any], name: str) -> bool:
        """Restore a saved `state` of endless play. If the environment does not reach it, begin another episode.

        A simulator may not repeat itself, and a run must be able to continue all the same. A note on standard error
        says that the episode was abandoned.

        Args:
            saved: what `state` returned.
            name: what the note calls the environment, such as `environment 3`.

        Returns:
            Whether the episode was restored.
        """
        try:
            self.load_state(saved)
        except ValueError as error:
            print(f"note: {name} begins another episode: {error}", file=sys.stderr)
            # With the streams as saved, or the actions that were replayed would change what is drawn from now on.
            self.rng.bit_generator.state = saved["rng"]
            self.env.np_random.bit_generator.state = saved["now"]["rng"]
            self._reset(None)
            return False
        return True

    def _now(self) -> dict[str, Any]:
        """The prompt and the random stream: if both agree, the environment is taken to be in the same state."""
        return {"prompt": self.request.prompt, "rng": self.env.np_random.bit_generator.state}

    def _reset(self, seed: int | None) -> None:
        self._begun: dict[str, Any] = {
            "seed": seed,
            "env_rng": self.env.np_random.bit_generator.state if seed is None else None,
            "carried": self.env.carried() if isinstance(self.env, CarryingEnv) else {},
        }
        self._played: list[tuple[int, bool]] = []
        self.seed = seed
        self._total, self._length, self._fallbacks = 0.0, 0, 0
        image, _ = self.env.reset() if seed is None else self.env.reset(seed=seed)
        self._request = self._ask(image)

    def _ask(self, image: np.ndarray) -> Request:
        """The request for the environment's current state."""
        # Rendered from the view that comes with this image, so the prompt is never that of an earlier state.
        view = self.env.view()
        return Request(image, render(self.parts, view, self.style), view, self.rng, self.env)

    def _index(self, parsed: Parsed, request: Request) -> int:
        """The action's index; a uniform draw from the environment's own stream if the reply names no legal action."""
        if parsed.action is None:
            return int(self.env.np_random.integers(len(request.view.actions)))
        return request.view.actions.index(parsed.action)

    def _finite(self, reward: Any) -> float:
        """A reward as a float. Raises ValueError if it is no finite number."""
        try:
            number = math.nan if isinstance(reward, str) else float(reward)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"task {self.task.name!r} gave the reward {reward!r}, which is no finite number")
        return number

    def _episode(self, info: Mapping[str, Any]) -> Episode:
        return Episode(
            seed=self.seed,
            total_reward=self._total,
            length=self._length,
            success=bool(self.task.succeeded(self._total, info)),
            fallbacks=self._fallbacks,
            group=self._group(info),
            data_source=self.task.data_source(info),
        )

    def _group(self, info: Mapping[str, Any]) -> str | None:
        """The episode's group. Raises ValueError if it is not one of the task's: no rate would count the episode."""
        group, known = self.task.group(info), self.task.groups
        if known and group not in known:
            raise ValueError(
                f"task {self.task.name!r} put an episode in group {group!r}; its groups: {', '.join(known)}"
            )
        return group


def advance(slots: Sequence[Slot], policy: Policy) -> list[Step]:
    """Play one step in every slot, with one batched call of the policy; the steps come in the slots' order.

    An endless slot whose episode ended has begun the next one; the step that ended it carries the `episode`.

    Raises:
        ValueError: the policy did not give one reply per request, or a slot has stopped.
    """
    replies = policy.act([slot.request for slot in slots])
    if len(replies) != len(slots):
        raise ValueError(f"policy {type(policy).__name__} gave {len(replies)} replies to {len(slots)} requests")
    # Send all before receiving any: environments in worker processes (`SplitStepEnv`) then step at the same time.
    for slot, reply in zip(slots, replies, strict=True):
        slot.send(reply)
    return [slot.receive() for slot in slots]

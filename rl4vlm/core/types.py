"""The frozen dataclasses that layers pass to each other, and the protocols that they implement.

This module imports neither torch nor another part of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np


class Style(StrEnum):
    """How a reply is written: chain-of-thought and then the action, or the action alone (paper, Table 3)."""

    COT = "cot"
    ACTION_ONLY = "nocot"


class Outcome(StrEnum):
    """The result of `parse_reply`: `OK`, or the reason why the reply holds no legal action."""

    OK = "ok"
    NO_KEY = "no_action_key"
    NO_LEGAL_ACTION = "no_legal_action"
    AMBIGUOUS = "ambiguous_action"


@dataclass(frozen=True)
class PromptParts:
    """The parts of the prompt that a task writes (paper, Fig. 3). `{name}` in a text is filled from `View.fields`.

    Attributes:
        role: who the player is.
        observation: what the image shows.
        rules: the rules of the game.
        keys: names of the entries of the JSON reply before `"action"`, in order. `Style.ACTION_ONLY` has none of them.
        hints: for each key, a few words on what its value should be.
    """

    role: str
    observation: str
    rules: str
    keys: tuple[str, ...]
    hints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """What a player is told besides the image: the legal actions now, and the values of the prompt's fields.

    A reply may also name an action by one of its `aliases` (by text, the action), which no prompt shows.
    """

    actions: tuple[str, ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExpertAction:
    """What a task's solver would do now.

    Attributes:
        entries: the entries of the JSON reply before `"action"`, by `PromptParts.keys`; the thoughts are templates.
        action: a legal action word.
        solvable: whether the episode can still be won from here.
    """

    entries: Mapping[str, Any]
    action: str
    solvable: bool = True


@dataclass(frozen=True)
class Parsed:
    """A parsed reply.

    Attributes:
        action: one of the legal action words, or None.
        action_span: character offsets (start, end) from the last `"action":` key to the end of the reply. None if the
            reply has no such key.
        outcome: `OK`, or why `action` is None.
    """

    action: str | None
    action_span: tuple[int, int] | None
    outcome: Outcome


@dataclass(frozen=True)
class Request:
    """What a policy is given to choose one action in one environment.

    Attributes:
        image: the observation, (300, 300, 3) uint8.
        prompt: the text of the prompt.
        view: the legal actions and the values that the prompt was filled with.
        rng: the sampling stream of this environment. A policy draws from nothing else, so that its reply depends
            neither on the batch nor on the process that computes it.
        env: the running environment, for scripted policies. A learned policy must not look at it.
    """

    image: np.ndarray
    prompt: str
    view: View
    rng: np.random.Generator
    env: GameEnv


@dataclass(frozen=True)
class Reply:
    """A policy's answer to one request.

    Attributes:
        text: the answer as written.
        numbers: plain floats for the episode record (`logprob_thoughts`, `logprob_action`, `value`, `tokens`).
        parsed: what `parse_reply` makes of `text`, if the policy needed to know; else the play loop parses it.
        replay_item: what PPO stores of the step; only the policy that made it knows what is inside.
        expert_action: what the solver advised, in a reply of the solver.
        perception: for each field that the image shows, `right`, `wrong` or `not_stated`; in an evaluation only.
    """

    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    parsed: Parsed | None = None
    replay_item: Any = None
    expert_action: ExpertAction | None = None
    perception: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Episode:
    """A finished episode, recorded by a slot of the play loop.

    Attributes:
        seed: the seed given to `env.reset`, or None if the environment continued its own random stream.
        total_reward: the undiscounted return, penalties for fallbacks included.
        length: number of steps.
        success: whether the episode was won.
        fallbacks: number of steps whose action was drawn at random because the reply held no legal one.
        group: the member of `Task.groups` that the episode belongs to, or None.
        data_source: where the game comes from, or None (see `Task.data_source`).
    """

    seed: int | None
    total_reward: float
    length: int
    success: bool
    fallbacks: int
    group: str | None = None
    data_source: str | None = None


@dataclass(frozen=True)
class Step:
    """One played step: the request, the reply, the action parsed from it and its reward.

    Attributes:
        fallback: the reply held no legal action, and `action` was drawn uniformly at random.
        final_request: after a truncated step, what the environment showed before it was reset: the state whose value
            a learner may bootstrap from. None for every other step.
        episode: the record of the episode that this step ended, or None.
    """

    request: Request
    reply: Reply
    parsed: Parsed
    action: str
    fallback: bool
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]
    final_request: Request | None = None
    episode: Episode | None = None

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated


class PlayStopped(Exception):
    """A policy raises this to end play without an error: it has reached its spending cap."""


class GameSkipped(Exception):
    """An environment's `reset` raises this if it skips the game and must not replace it (`SkippingEnv`)."""


class Policy(Protocol):
    """Anything that can play: it answers a batch of requests with one reply each, in order."""

    def act(self, requests: Sequence[Request]) -> list[Reply]: ...


class GameEnv(Protocol):
    """The methods of an environment that the play loop calls. `gymnasium.make(...).unwrapped` has them.

    `step` takes the index of an action in `view().actions`. `perception` returns the true text of each field that a
    player must read off the image.
    """

    np_random: np.random.Generator

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]: ...

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]: ...

    def view(self) -> View: ...

    def expert_action(self) -> ExpertAction: ...

    def perception(self) -> Mapping[str, str]: ...

    def close(self) -> None: ...


@runtime_checkable
class SplitStepEnv(Protocol):
    """An environment whose steps are computed in another process, so that many environments can step at once.

    `step_async` begins a step. `step_wait` waits for it and returns what `step` would have returned.
    """

    def step_async(self, action: int) -> None: ...

    def step_wait(self) -> tuple[Any, float, bool, bool, dict[str, Any]]: ...


@runtime_checkable
class SkippingEnv(Protocol):
    """An environment that can skip games which it cannot play.

    `skipped` maps the file of each game skipped so far to the reason. If `replaces_skipped` (the default), `reset` then
    plays another game; otherwise it raises GameSkipped.
    """

    replaces_skipped: bool

    @property
    def skipped(self) -> Mapping[str, str]: ...


@runtime_checkable
class CarryingEnv(Protocol):
    """An environment that keeps something from one episode to the next, beside its random stream.

    `carried` returns it as plain data that JSON can hold, and `carry` puts it back. With it, an episode can be repeated
    exactly: by its reset and its actions.
    """

    def carried(self) -> dict[str, Any]: ...

    def carry(self, saved: Mapping[str, Any]) -> None: ...

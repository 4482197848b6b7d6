"""The frozen records that cross the borders between layers, and the protocols the layers meet at.

Nothing here imports another part of the package, and nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np


class Style(StrEnum):
    """How a reply is written: with chain-of-thought before the action, or with the action alone (paper, Table 3)."""

    COT = "cot"
    ACTION_ONLY = "nocot"


class Outcome(StrEnum):
    """What `parse_reply` made of a reply: `OK`, or the reason why no legal action was found."""

    OK = "ok"
    NO_KEY = "no_action_key"
    NO_LEGAL_ACTION = "no_legal_action"
    AMBIGUOUS = "ambiguous_action"


@dataclass(frozen=True)
class PromptParts:
    """What a task says of itself in the prompt (paper, Fig. 3); `{name}` in a text is filled from `View.fields`.

    `keys` are the names of the JSON answer's entries before `"action"`, in order; with `Style.ACTION_ONLY` they are
    left out. `hints` says in a few words what each key should hold.
    """

    role: str
    observation: str
    rules: str
    keys: tuple[str, ...]
    hints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """What the player is told besides the picture: the legal action words now, and what the prompt is filled with."""

    actions: tuple[str, ...]
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExpertAction:
    """What a task's solver would do now.

    `entries` are the JSON answer's entries before `"action"` (keys as in `PromptParts.keys`, with the templated
    thoughts), `action` the legal action word, `solvable` says whether success can still be reached from here.
    """

    entries: Mapping[str, Any]
    action: str
    solvable: bool = True


@dataclass(frozen=True)
class Parsed:
    """A parsed reply.

    `action` is one of the legal action words or None; `action_span` the character offsets (start, end) from the
    `"action":` key that counts to the end of the reply, or None where there is no key.
    """

    action: str | None
    action_span: tuple[int, int] | None
    outcome: Outcome


@dataclass(frozen=True)
class Request:
    """One question to a policy: what one environment shows now.

    `picture` is (300, 300, 3) uint8. `rng` is this environment's own sampling stream: a policy that samples draws from
    it and from nothing else, so that a reply depends neither on the batch nor on the process that computes it.
    `env` is the running environment, for scripted policies alone; a learned policy must not look at it.
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
    """

    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    parsed: Parsed | None = None
    replay_item: Any = None
    expert_action: ExpertAction | None = None


@dataclass(frozen=True)
class Episode:
    """A finished episode, as counted by a slot of the play loop.

    `seed` is what `env.reset` was given, None where the environment went on with its own stream; `total_reward` is the
    undiscounted return, penalties for fallbacks included; `length` and `fallbacks` count steps. `group` is the kind of
    episode that results are also counted by, `data_source` what its game was taken from, where the task knows such.
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
    """One played step: the request that was answered, the answer, what it was taken to mean and what it earned.

    `fallback` says that no legal action was found in the reply and `action` was drawn uniformly at random.
    `final_request` is what the environment showed after a step that was cut off without an end, before the reset: the
    state that a learner may bootstrap from. It is None for every other step. `episode` is the count of the episode that
    this step ended, None while it goes on.
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
    """A policy raises this when it will answer no more, although nothing is wrong: its spending cap is reached."""


class Policy(Protocol):
    """Anything that can play: it answers a batch of requests, one reply each, in order."""

    def act(self, requests: Sequence[Request]) -> list[Reply]: ...


class GameEnv(Protocol):
    """What the play loop needs of an environment, beyond gymnasium's own `reset` and `step`.

    Obtained as `gymnasium.make(...).unwrapped`; `step` takes the index of the action in `view().actions`.
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
    """What an environment has beyond `GameEnv` when its steps are computed elsewhere and many can run at once.

    `step_async` begins a step, `step_wait` returns what `step` would have.
    """

    def step_async(self, action: int) -> None: ...

    def step_wait(self) -> tuple[Any, float, bool, bool, dict[str, Any]]: ...


@runtime_checkable
class SkippingEnv(Protocol):
    """What an environment has beyond `GameEnv` when it may go on without games that it cannot play.

    `skipped` are those left out so far: file and reason.
    """

    @property
    def skipped(self) -> Mapping[str, str]: ...

"""Scripted policies. They write replies as a model would, so the same parser reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rl4vlm.core.types import Reply, Request, Style
from rl4vlm.interaction.prompt import write_reply


class RandomPolicy:
    """Plays a uniformly random legal action."""

    def __init__(self, style: Style = Style.COT) -> None:
        self.style = style

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(write_reply({}, random_action(request), self.style)) for request in requests]


class SolverPolicy:
    """Plays the action of the task's solver and explains it; the reply carries the `ExpertAction`.

    With probability `action_noise` it plays a uniformly random legal action instead (which may be the solver's own),
    while its thoughts stay the solver's. This makes demonstrations as imperfect as those of the paper's warm start.
    `reword` puts its thoughts into other words, in states that can still be won.

    `act` raises ValueError if the solver names an action that is not legal.
    """

    def __init__(
        self, style: Style = Style.COT, action_noise: float = 0.0, reword: Callable[[str], str] | None = None
    ) -> None:
        if not 0.0 <= action_noise <= 1.0:
            raise ValueError(f"action_noise {action_noise} is not a probability")
        self.style = style
        self.action_noise = action_noise
        self.reword = reword

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Reply:
        expert_action = request.env.expert_action()
        _check_legal(expert_action.action, request)
        # Without noise nothing is drawn, so the environment's sampling stream stays as it is.
        noisy = self.action_noise > 0.0 and request.rng.random() < self.action_noise
        action = random_action(request) if noisy else expert_action.action
        entries = dict(expert_action.entries)
        if self.reword and expert_action.solvable:
            entries["thoughts"] = self.reword(entries["thoughts"])
        return Reply(write_reply(entries, action, self.style), expert_action=expert_action)


def random_action(request: Request) -> str:
    """A uniformly random legal action, drawn from the request's own random stream."""
    return request.view.actions[int(request.rng.integers(len(request.view.actions)))]


def _check_legal(action: str, request: Request) -> None:
    """Raise ValueError if a solver's action is not legal: a random one would be played and count as the solver's."""
    view = request.view
    if action not in view.actions and action not in view.aliases:
        # Not every environment says which task it plays.
        task = getattr(getattr(request.env, "task", None), "name", type(request.env).__name__)
        legal = ", ".join(map(repr, view.actions))
        raise ValueError(f"the solver of {task} names the action {action!r}, which is not legal here; legal: {legal}")

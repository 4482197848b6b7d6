"""Random and solver play. Their replies pass through the same parser as a model's."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rl4vlm.core.types import ExpertAction, Request, Style
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.policies.scripted import RandomPolicy, SolverPolicy
from tests.fakes import ClimbEnv, climb_slot


def ask(seed: int = 1) -> Request:
    """A request on floor 1, where three actions are legal."""
    slots = (climb_slot(seed, endless=False) for seed in range(seed, 1000))
    return next(slot.request for slot in slots if slot.env.floor == 1)


def action_of(request: Request, text: str) -> str | None:
    return parse_reply(text, request.view.actions).action


def test_random_play_is_uniform_over_the_legal_actions() -> None:
    request = ask()
    counts = Counter(action_of(request, reply.text) for reply in RandomPolicy().act([request] * 3000))
    assert set(counts) == {"up", "wait", "go down"}
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 13.8  # chi-square, p = 0.001


def test_random_play_draws_from_the_requests_own_stream() -> None:
    one, same, other = ask(1), ask(1), ask(50)
    texts = [[RandomPolicy().act([request])[0].text for _ in range(20)] for request in (one, same, other)]
    assert texts[0] == texts[1] != texts[2]


def test_the_solver_writes_its_expert_action() -> None:
    (reply,) = SolverPolicy(Style.COT).act([ask()])
    assert json.loads(reply.text) == {"floor": 1, "thoughts": "The top is above.", "action": "up"}
    assert isinstance(reply.expert_action, ExpertAction)
    assert SolverPolicy(Style.ACTION_ONLY).act([ask()])[0].text == '{"action": "up"}'


def test_a_noisy_solver_says_another_action_but_thinks_the_same() -> None:
    request = ask()
    replies = SolverPolicy(Style.COT, action_noise=0.3).act([request] * 3000)
    counts = Counter(action_of(request, reply.text) for reply in replies)
    assert counts["up"] / 3000 == pytest.approx(0.7 + 0.1, abs=0.03)
    assert counts["wait"] / 3000 == pytest.approx(0.1, abs=0.03)
    assert all('"floor": 1, "thoughts": "The top is above."' in reply.text for reply in replies)


def test_a_solver_without_noise_draws_nothing() -> None:
    request, untouched = ask(1), ask(1)
    SolverPolicy().act([request])
    assert request.rng.random() == untouched.rng.random()


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("task", [None, "Climb"])
def test_an_illegal_action_of_the_solver_is_named(
    task: str | None, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random action would be played in its place, and its demonstration would be wrong."""
    request = ask()
    if task:
        monkeypatch.setattr(request.env, "task", SimpleNamespace(name=task), raising=False)
    monkeypatch.setattr(ClimbEnv, "expert_action", lambda self: ExpertAction({"thoughts": "Up."}, "Up"))
    said = f"solver of {task or 'ClimbEnv'} names the action 'Up', .*; legal: 'up', 'wait', 'go down'$"
    with pytest.raises(ValueError, match=said):
        SolverPolicy(action_noise=noise).act([request])


def test_the_solver_may_name_an_alias() -> None:
    request = ask()
    request = replace(request, view=replace(request.view, actions=("climb",), aliases={"up": "climb"}))
    assert json.loads(SolverPolicy().act([request])[0].text)["action"] == "up"


@pytest.mark.parametrize("noise", [-0.1, 1.1])
def test_noise_is_a_probability(noise: float) -> None:
    with pytest.raises(ValueError, match="action_noise"):
        SolverPolicy(action_noise=noise)

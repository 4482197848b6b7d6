"""PPO's losses against numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rl4vlm.ppo.losses import (
    approximate_kl,
    effective_sample_size,
    importance_weight,
    policy_log_prob,
    policy_loss,
    reverse_kl,
    value_loss,
)


@pytest.mark.parametrize(
    ("coefficient", "expected"), [(1.0, [-10.0, -0.75]), (0.0, [-7.0, -0.25]), (0.5, [-8.5, -0.5])]
)
def test_equation_4_weighs_the_thoughts(coefficient: float, expected: list[float]) -> None:
    thoughts, action = torch.tensor([-3.0, -0.5]), torch.tensor([-7.0, -0.25])
    assert policy_log_prob(thoughts, action, coefficient).tolist() == expected


def test_thoughts_get_their_share_of_the_gradient_and_the_action_all_of_it() -> None:
    thoughts, action = torch.tensor([-3.0], requires_grad=True), torch.tensor([-7.0], requires_grad=True)
    policy_log_prob(thoughts, action, 0.3).sum().backward()
    assert thoughts.grad is not None
    assert action.grad is not None
    assert thoughts.grad.item() == pytest.approx(0.3)
    assert action.grad.item() == 1.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.2),  # clipped at 1.1
        (1.5, -2.0, 3.0),  # the minimum is the unclipped term
        (0.5, 2.0, -1.0),
        (0.5, -2.0, 1.8),  # clipped at 0.9
        (20.0, -2.0, 2.2),  # above the ratio limit only the clipped term counts
    ],
)
def test_policy_loss(ratio, advantage, loss):
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    value, found = policy_loss(new, torch.zeros(1), torch.tensor([advantage]), clip_range=0.1)
    assert value.item() == pytest.approx(loss, rel=1e-5)
    assert found.item() == pytest.approx(ratio, rel=1e-5)


def test_the_ratio_limit_is_a_setting():
    new = torch.tensor([math.log(3.0)])
    for limit, loss in ((10.0, 6.0), (2.0, 2.2)):
        found, _ = policy_loss(new, torch.zeros(1), torch.tensor([-2.0]), clip_range=0.1, ratio_limit=limit)
        assert found.item() == pytest.approx(loss, rel=1e-5)


def test_runaway_ratio_has_no_gradient():
    new = torch.tensor([500.0], requires_grad=True)
    loss, _ = policy_loss(new, torch.zeros(1), torch.tensor([-1.0]), clip_range=0.1)
    loss.sum().backward()
    assert new.grad is not None
    assert new.grad.item() == 0.0


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [(1.0, 1.0, 3.0, 2.0), (2.0, 1.0, 3.0, 0.5 * 1.9**2), (1.05, 1.0, 0.0, 0.5 * 1.05**2)],
)
def test_value_loss(value, old, target, loss):
    found = value_loss(torch.tensor([value]), torch.tensor([old]), torch.tensor([target]), clip_range=0.1)
    assert found.item() == pytest.approx(loss, rel=1e-5)


def test_kl_estimate():
    kl = approximate_kl(torch.tensor([math.log(0.5)]), torch.zeros(1))
    assert kl.item() == pytest.approx(0.5 - 1 + math.log(2))


def test_the_penalty_pulls_along_the_gradient_of_the_reverse_kl():
    logits = torch.tensor([2.0, 0.5, -1.0], requires_grad=True)
    reference = torch.tensor([0.1, 0.3, 0.6]).log()
    log_p = logits.log_softmax(-1)
    exact = (log_p.exp() * (log_p - reference)).sum()
    # A token that is sampled with probability p counts p times; the probability itself has no gradient then.
    sampled = (log_p.exp().detach() * reverse_kl(reference - log_p)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (found,) = torch.autograd.grad(sampled, logits)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_token_that_has_become_rare_does_not_outweigh_all_others():
    log_p = torch.tensor([math.log(1e-4)], requires_grad=True)
    reverse_kl(math.log(0.5) - log_p).sum().backward()
    assert log_p.grad is not None
    assert abs(log_p.grad.item()) == pytest.approx(math.log(5000), rel=1e-4)


def test_importance_weights_are_truncated():
    learned, sampled = torch.tensor([-1.0, -1.0, -1.0, 500.0]), torch.tensor([-1.0, -1.0 + math.log(4), -3.0, -500.0])
    assert importance_weight(learned, sampled, cap=2.0).tolist() == pytest.approx([1, 0.25, 2, 2])


def test_effective_sample_size():
    assert effective_sample_size(torch.ones(5)).item() == 1
    # 3^2 / (4 * (1 + 4)): these 4 samples are worth 1.8 with equal weights.
    assert effective_sample_size(torch.tensor([1.0, 2.0, 0.0, 0.0])).item() == pytest.approx(0.45)

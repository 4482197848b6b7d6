"""PPO's losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rl4vlm.ppo.losses import action_log_prob, approximate_kl, policy_loss, split_log_probs, value_loss

LOGPROBS = torch.tensor([[-1.0, -2.0, -3.0, -4.0], [-0.5, -0.25, 0.0, 0.0]])
MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])
START = torch.tensor([2, 1])


def test_split_at_the_action_key():
    thoughts, action = split_log_probs(LOGPROBS, MASK, START)
    assert thoughts.tolist() == [-3.0, -0.5]
    assert action.tolist() == [-7.0, -0.25]


@pytest.mark.parametrize(("weight", "expected"), [(1.0, [-10.0, -0.75]), (0.0, [-7.0, -0.25]), (0.5, [-8.5, -0.5])])
def test_lambda_weighs_the_thoughts(weight, expected):
    assert action_log_prob(LOGPROBS, MASK, START, weight).tolist() == expected


def test_reply_without_action_key_is_all_thought():
    _, action = split_log_probs(LOGPROBS, MASK, torch.tensor([4, 4]))
    assert action.tolist() == [0.0, 0.0]


def test_padding_counts_for_nothing():
    wider = torch.nn.functional.pad(LOGPROBS, (0, 3), value=-99.0)
    mask = torch.nn.functional.pad(MASK, (0, 3), value=False)
    assert torch.equal(action_log_prob(wider, mask, START, 0.5), action_log_prob(LOGPROBS, MASK, START, 0.5))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.2),  # clipped at 1.1
        (1.5, -2.0, 3.0),  # the pessimistic branch keeps the plain ratio
        (0.5, 2.0, -1.0),
        (0.5, -2.0, 1.8),  # clipped at 0.9
        (20.0, -2.0, 2.2),  # beyond the limit only the clipped surrogate counts
    ],
)
def test_policy_loss(ratio, advantage, loss):
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    value, found = policy_loss(new, torch.zeros(1), torch.tensor([advantage]), clip=0.1)
    assert value.item() == pytest.approx(loss, rel=1e-5)
    assert found.item() == pytest.approx(ratio, rel=1e-5)


def test_runaway_ratio_has_no_gradient():
    new = torch.tensor([500.0], requires_grad=True)
    loss, _ = policy_loss(new, torch.zeros(1), torch.tensor([-1.0]), clip=0.1)
    loss.sum().backward()
    assert new.grad.item() == 0.0


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [(1.0, 1.0, 3.0, 2.0), (2.0, 1.0, 3.0, 0.5 * 1.9**2), (1.05, 1.0, 0.0, 0.5 * 1.05**2)],
)
def test_value_loss(value, old, target, loss):
    found = value_loss(torch.tensor([value]), torch.tensor([old]), torch.tensor([target]), clip=0.1)
    assert found.item() == pytest.approx(loss, rel=1e-5)


def test_kl_estimate():
    kl = approximate_kl(torch.tensor([math.log(0.5)]), torch.zeros(1))
    assert kl.item() == pytest.approx(0.5 - 1 + math.log(2))

"""A vision-language model as a policy: what it keeps of a step, and how it scores it again."""

from __future__ import annotations

import pytest
import torch

from rl4vlm.interaction.play import advance
from rl4vlm.policies.vlm import VLMPolicy, action_log_prob, split_log_probs
from tests.fakes import climb_slot

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


def test_rescoring_gives_what_was_stored(actor_critic):
    policy = VLMPolicy(actor_critic, thought_prob_coef=0.25)
    slots = [climb_slot(seed) for seed in range(3)]
    asked = [slot.request for slot in slots]
    traces = [step.reply.trace for step in advance(slots, policy)]
    now = policy.rescore(policy.model, traces)
    assert now.old_log_prob.tolist() == pytest.approx([0.25 * t.logprob_thoughts + t.logprob_action for t in traces])
    torch.testing.assert_close(now.log_prob, now.old_log_prob, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(now.value, now.old_value, atol=1e-5, rtol=1e-4)
    assert policy.values(asked) == pytest.approx(now.old_value.tolist(), abs=1e-5)
    assert now.log_prob.requires_grad
    assert now.value.requires_grad
    assert (now.entropy > 0).all()

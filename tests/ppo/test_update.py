"""Invariants of one PPO update on a tiny model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from rl4vlm.policies.vlm import Trace
from rl4vlm.ppo.rollout import Sample
from rl4vlm.ppo.update import UpdateSettings, update

SETTINGS = UpdateSettings(
    epochs=1, minibatch=8, micro_batch=8, clip=0.1, value_coefficient=0.5, entropy_coefficient=0.01,
    thought_weight=0.5, max_grad_norm=None,
)  # fmt: skip


@pytest.fixture
def samples(actor_critic):
    """Eight sampled replies of different prompts, with made-up advantages."""
    rng = np.random.default_rng(0)
    encoder = actor_critic.encoder
    pictures = rng.integers(0, 256, size=(8, 300, 300, 3), dtype=np.uint8)
    prompts = [encoder.prompt(picture, "x" * (row + 1)) for row, picture in enumerate(pictures)]
    replies = actor_critic.generate(prompts, [np.random.default_rng(row) for row in range(8)])
    made = []
    for prompt, reply, advantage in zip(prompts, replies, rng.normal(size=8), strict=True):
        start = len(reply.ids) // 2
        trace = Trace(
            prompt,
            reply.ids,
            start,
            float(reply.logprobs[:start].sum()),
            float(reply.logprobs[start:].sum()),
            reply.value,
        )
        made.append(Sample(trace, float(advantage), reply.value + 0.3))
    return made


def run_update(model, samples, **changes):
    """One update of a copy of the model by plain SGD, whose step shows the gradient itself."""
    model = copy.deepcopy(model)
    settings = UpdateSettings(**{**vars(SETTINGS), **changes})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measured = update(model, optimizer, Accelerator(cpu=True), samples, settings, np.random.default_rng(1))
    return model, measured


def test_first_ratio_is_one(actor_critic, samples):
    for weight in (0.0, 0.5, 1.0):
        _, measured = run_update(actor_critic, samples, thought_weight=weight)
        assert measured["first_ratio_error"] < 1e-4
        assert measured["clip_fraction"] == 0
        assert measured["approx_kl"] == pytest.approx(0, abs=1e-6)


def test_a_wrong_prompt_shows_in_the_first_ratio(actor_critic, samples):
    """The public code's defect: replies re-scored under another step's prompt."""
    wrong = [
        Sample(Trace(**{**vars(s.trace), "prompt": samples[0].trace.prompt}), s.advantage, s.value_target)
        for s in samples
    ]
    _, measured = run_update(actor_critic, wrong)
    assert measured["first_ratio_error"] > 1e-2


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_pieces_of_a_minibatch_change_nothing(actor_critic, samples, micro_batch):
    whole, expected = run_update(actor_critic, samples)
    pieces, measured = run_update(actor_critic, samples, micro_batch=micro_batch)
    for (name, one), other in zip(whole.named_parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4, msg=name)
    assert measured == pytest.approx(expected, abs=1e-4)


def test_an_update_moves_probability_towards_the_advantage(actor_critic, samples):
    settings = {"epochs": 3, "value_coefficient": 0.0, "entropy_coefficient": 0.0, "thought_weight": 1.0}
    after, _ = run_update(actor_critic, samples, **settings)
    with torch.no_grad():
        scores = after.score([s.trace.prompt for s in samples], [s.trace.ids for s in samples])
    new = scores.logprobs.sum(-1).numpy()
    old = np.array([s.trace.logprob_thoughts + s.trace.logprob_action for s in samples])
    advantage = np.array([s.advantage for s in samples])
    assert ((new - old) * advantage).sum() > 0


def test_clip_norm_limits_the_step(actor_critic, samples):
    after, _ = run_update(actor_critic, samples, max_grad_norm=1e-3)
    pairs = zip(after.parameters(), actor_critic.parameters(), strict=True)
    moved = sum(float(((new - old).detach() ** 2).sum()) for new, old in pairs)
    assert moved**0.5 == pytest.approx(0.1 * 1e-3, rel=0.05)

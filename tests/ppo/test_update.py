"""Invariants of one PPO update on a tiny model."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.policies.vlm import VLMPolicy, VLMReplayItem
from rl4vlm.ppo import update
from rl4vlm.ppo.initial import parameter_groups
from rl4vlm.ppo.policy_optimizer import PolicyOptimizer
from rl4vlm.ppo.rollout import Sample, by_input
from rl4vlm.ppo.update import UpdateProgress, optimizer_steps
from rl4vlm.training.distributed import Processes

ALONE = Processes(Accelerator(cpu=True), timeout=1.0)
SETTINGS = TrainingSettings(ppo_epochs=1, minibatch_size=8, clip_range=0.1, vf_coef=0.5, ent_coef=0.01)


@pytest.fixture
def samples(actor_critic):
    return samples_of(actor_critic)


def samples_of(actor_critic):
    """Eight sampled replies to different prompts, with made-up advantages."""
    rng = np.random.default_rng(0)
    encoder = actor_critic.encoder
    images = rng.integers(0, 256, size=(8, 300, 300, 3), dtype=np.uint8)
    prompts = [encoder.prompt(image, "x" * (row + 1)) for row, image in enumerate(images)]
    replies = actor_critic.generate(prompts, [np.random.default_rng(row) for row in range(8)])
    made = []
    for prompt, reply, advantage in zip(prompts, replies, rng.normal(size=8), strict=True):
        start = len(reply.ids) // 2
        item = VLMReplayItem(
            prompt,
            reply.ids,
            start,
            float(reply.logprobs[:start].sum()),
            float(reply.logprobs[start:].sum()),
            reply.value,
            reply.logprobs,
        )
        made.append(Sample(item, float(advantage), reply.value + 0.3))
    return made


def policy_optimizer_of(model, thought_prob_coef=0.5):
    """A copy of the model with plain SGD: its step is proportional to the gradient."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return PolicyOptimizer(VLMPolicy(model), model, optimizer, Accelerator(cpu=True), thought_prob_coef)


def run_update(model, samples, thought_prob_coef=0.5, **changes):
    """One whole update of a copy of the model; returns the copy and the metrics."""
    policy_optimizer, progress = policy_optimizer_of(model, thought_prob_coef), UpdateProgress()
    settings, rng = replace(SETTINGS, **changes), np.random.default_rng(1)
    for _ in optimizer_steps(policy_optimizer, samples, progress, settings, rng):
        pass
    return policy_optimizer.model, progress.means(ALONE)


def test_samples_with_equal_prompts_train_as_apart(actor_critic, samples):
    """Also across micro-batches, and in rescoring; and each distinct prompt passes once."""
    first, equal = samples[0].item.prompt, []
    for number, sample in enumerate(samples):
        item = replace(
            sample.item,
            prompt=replace(first) if number % 2 else sample.item.prompt,
            # Replies this short are cheaper in a shared row than with the prompt read again.
            ids=sample.item.ids[:3],
            logprobs=sample.item.logprobs[:3],
            action_start=1,
        )
        equal.append(replace(sample, item=item))
    passed, found = [], []
    for share in (True, False):
        model = copy.deepcopy(actor_critic)
        model.share_prompts = share
        rows: list[int] = []
        tower = model.model.model.vision_tower
        tower.register_forward_pre_hook(lambda _module, images, rows=rows: rows.append(len(images[0])))
        found.append(run_update(model, equal, minibatch_size=8, micro_batch_size=4, importance_cap=2.0))
        passed.append(sum(rows))
    for (name, one), other in zip(found[0][0].named_parameters(), found[1][0].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4, msg=name)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-4)
    # Three passes of the rollout: rescored, with other neighbours, and trained on. Four prompts are distinct, and one
    # of them has five replies: in one micro-batch of four and in the next.
    assert passed[1] == 3 * 8
    assert passed[0] <= 3 * 6


def test_samples_with_the_same_input_are_neighbours(samples):
    same = replace(samples[4].item, prompt=replace(samples[1].item.prompt))
    mixed = [replace(sample, item=same) if number in (4, 6) else sample for number, sample in enumerate(samples)]
    assert by_input(np.array([3, 6, 0, 1, 5, 4]), mixed) == [3, 6, 1, 4, 0, 5]
    assert by_input(np.array([3, 6, 0, 1, 5, 4]), samples) == [3, 6, 0, 1, 5, 4]


def test_importance_weights_are_one_in_float32(actor_critic, samples):
    plain, _ = run_update(actor_critic, samples)
    weighted, measured = run_update(actor_critic, samples, importance_cap=2.0)
    assert measured["effective_sample_size"] == pytest.approx(1, abs=1e-6)
    assert measured["token_mult_prob_error"] == pytest.approx(1, abs=1e-4)
    for one, other in zip(plain.parameters(), weighted.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_importance_weights_correct_what_was_sampled_elsewhere(actor_critic, samples, caplog):
    """Every token of the first reply was sampled with 0.9 times its probability, of the second with 1.5 times."""
    played = [0.9, 1.5] + [1.0] * 6
    moved = []
    for sample, factor in zip(samples, played, strict=True):
        item, by = sample.item, float(np.log(factor))
        thoughts, action = item.action_start, len(item.ids) - item.action_start
        changed = {
            "logprobs": item.logprobs + by,
            "logprob_thoughts": item.logprob_thoughts + by * thoughts,
            "logprob_action": item.logprob_action + by * action,
        }
        moved.append(replace(sample, item=replace(item, **changed)))
    policy_optimizer, progress = policy_optimizer_of(actor_critic), UpdateProgress()
    settings = replace(SETTINGS, importance_cap=2.0)
    next(optimizer_steps(policy_optimizer, moved, progress, settings, np.random.default_rng(1)))
    lengths = np.array([len(sample.item.ids) for sample in samples])
    weights = np.minimum(2.0, np.array(played, dtype=float) ** -lengths)
    assert progress.old is not None
    assert progress.old[:, 3] == pytest.approx(weights, rel=1e-3)
    measured = progress.means(ALONE)
    assert measured["effective_sample_size"] == pytest.approx(weights.sum() ** 2 / (8 * (weights**2).sum()), rel=1e-3)
    errors = np.maximum(played, 1 / np.array(played))
    assert measured["token_mult_prob_error"] == pytest.approx((errors * lengths).sum() / lengths.sum(), rel=1e-3)
    # The first ratio is 1, so the policy loss is minus the weighted advantage.
    expected = -np.mean(weights * [sample.advantage for sample in samples])
    assert measured["policy_loss"] == pytest.approx(expected, rel=1e-3)
    assert "token_mult_prob_error is 1.0" in caplog.text


def test_first_ratio_is_one(actor_critic, samples):
    for weight in (0.0, 0.5, 1.0):
        _, measured = run_update(actor_critic, samples, thought_prob_coef=weight)
        assert measured["first_ratio_error"] < 1e-4
        assert measured["clip_fraction"] == 0
        assert measured["approx_kl"] == pytest.approx(0, abs=1e-6)


@pytest.fixture
def coarse(tiny_checkpoint):
    """A model in bfloat16, at the paper's low temperature, which magnifies rounding errors."""
    torch.manual_seed(0)
    return ActorCritic.load(tiny_checkpoint, temperature=0.2, max_new_tokens=48, value_sizes=(16,), dtype="bfloat16")


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_first_ratio_is_one_in_bfloat16_too(coarse, micro_batch_size):
    """Compared with the log-probabilities as sampled it is not, so the update rescores the samples first."""
    samples = samples_of(coarse)
    played = [s.item.logprob_thoughts * 0.5 + s.item.logprob_action for s in samples]
    policy_optimizer, progress, rng = policy_optimizer_of(coarse), UpdateProgress(), np.random.default_rng(1)
    settings = replace(SETTINGS, micro_batch_size=micro_batch_size, minibatch_size=4)
    steps = optimizer_steps(policy_optimizer, samples, progress, settings, rng)
    next(steps)
    measured = progress.means(ALONE)
    assert measured["first_ratio_error"] < 1e-3
    assert measured["clip_fraction"] == 0
    assert progress.old is not None
    assert progress.old[:, 2] == pytest.approx(played, abs=1e-4)
    assert measured["rescored_gap"] == pytest.approx(np.abs(progress.old[:, 0] - played).mean(), abs=1e-4)
    assert 1e-4 < measured["rescored_gap"] < 1
    assert progress.old[:, 1] == pytest.approx([s.item.value for s in samples], abs=0.1)
    # Micro-batches of one sample have no neighbours, so a step of size 0 changes nothing.
    assert measured["neighbour_ratio_error"] <= (0 if micro_batch_size == 1 else 0.1)
    assert measured["neighbour_clip_fraction"] == 0
    old = progress.old
    next(steps)
    assert progress.old is old


def test_a_fit_in_bfloat16_goes_on_without_scoring_again(coarse):
    samples, settings = samples_of(coarse), replace(SETTINGS, ppo_epochs=2, minibatch_size=3, micro_batch_size=2)
    whole, measured = run_update(coarse, samples, ppo_epochs=2, minibatch_size=3, micro_batch_size=2)
    policy_optimizer, progress, rng = policy_optimizer_of(coarse), UpdateProgress(), np.random.default_rng(1)
    while progress.epoch < settings.ppo_epochs:
        progress = copy.deepcopy(next(optimizer_steps(policy_optimizer, samples, progress, settings, rng)))
    for one, other in zip(whole.parameters(), policy_optimizer.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert progress.means(ALONE) == measured


def test_what_computes_in_float32_is_not_scored_again(actor_critic, samples, monkeypatch):
    monkeypatch.setattr(update, "rescore_before_update", None)
    _, measured = run_update(actor_critic, samples)
    assert "rescored_gap" not in measured
    run_update(copy.deepcopy(actor_critic).double(), samples)


def test_a_wrong_prompt_shows_in_the_first_ratio(actor_critic, samples):
    """The public code's defect: replies are rescored under the prompt of another step."""
    wrong = [
        Sample(VLMReplayItem(**{**vars(s.item), "prompt": samples[0].item.prompt}), s.advantage, s.value_target)
        for s in samples
    ]
    _, measured = run_update(actor_critic, wrong)
    assert measured["first_ratio_error"] > 1e-2


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
def test_pieces_of_a_minibatch_change_nothing(actor_critic, samples, micro_batch_size):
    whole, expected = run_update(actor_critic, samples)
    split, measured = run_update(actor_critic, samples, micro_batch_size=micro_batch_size)
    for (name, one), other in zip(whole.named_parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4, msg=name)
    assert measured == pytest.approx(expected, abs=1e-4)


def test_an_update_moves_probability_towards_the_advantage(actor_critic, samples):
    settings = {"ppo_epochs": 3, "vf_coef": 0.0, "ent_coef": 0.0, "thought_prob_coef": 1.0}
    after, _ = run_update(actor_critic, samples, **settings)
    with torch.no_grad():
        scores = after.score([s.item.prompt for s in samples], [s.item.ids for s in samples])
    new = scores.logprobs.sum(-1).numpy()
    old = np.array([s.item.logprob_thoughts + s.item.logprob_action for s in samples])
    advantage = np.array([s.advantage for s in samples])
    assert ((new - old) * advantage).sum() > 0


def test_no_gradient_is_kept_while_the_next_rollout_is_played(actor_critic, samples):
    """As `rl4vlm memory` counts it: they would take the memory of the trained weights once more."""
    after, _ = run_update(actor_critic, samples)
    assert all(weight.grad is None for weight in after.parameters())


def test_clip_norm_limits_the_step(actor_critic, samples):
    after, _ = run_update(actor_critic, samples, max_grad_norm=1e-3)
    pairs = zip(after.parameters(), actor_critic.parameters(), strict=True)
    moved = sum(float(((new - old).detach() ** 2).sum()) for new, old in pairs)
    assert moved**0.5 == pytest.approx(0.1 * 1e-3, rel=0.05)


def test_a_fit_goes_on_from_where_it_stopped(actor_critic, samples):
    """Stopped after every optimizer step and continued by a new generator, it gives the same bits."""
    settings = replace(SETTINGS, ppo_epochs=2, minibatch_size=3, micro_batch_size=2)
    whole, measured = run_update(actor_critic, samples, ppo_epochs=2, minibatch_size=3, micro_batch_size=2)
    policy_optimizer, progress, rng = policy_optimizer_of(actor_critic), UpdateProgress(), np.random.default_rng(1)
    optimised = 0
    while progress.epoch < settings.ppo_epochs:
        progress = copy.deepcopy(next(optimizer_steps(policy_optimizer, samples, progress, settings, rng)))
        optimised += 1
    assert optimised == 6
    for one, other in zip(whole.parameters(), policy_optimizer.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert progress.means(ALONE) == measured


def test_an_update_ends_where_the_policy_is_far_from_the_one_that_played(actor_critic, samples):
    def steps(target_kl):
        policy_optimizer, progress = policy_optimizer_of(actor_critic), UpdateProgress()
        settings = replace(SETTINGS, ppo_epochs=3, minibatch_size=4, target_kl=target_kl)
        made = list(optimizer_steps(policy_optimizer, samples, progress, settings, np.random.default_rng(1)))
        assert progress.means(ALONE)["approx_kl"] == progress.totals["approx_kl"] / (4 * len(made))
        return len(made)

    # Before the first step both policies are equal.
    assert steps(None) == steps(1e9) == 6
    assert steps(1e-9) == 2


def test_every_sample_comes_once_an_epoch(actor_critic, samples):
    policy_optimizer, progress = policy_optimizer_of(actor_critic), UpdateProgress()
    orders = []
    for _ in optimizer_steps(
        policy_optimizer, samples, progress, replace(SETTINGS, ppo_epochs=2, minibatch_size=3), np.random.default_rng(1)
    ):
        if progress.order is not None and progress.position == 3:
            orders.append(progress.order.tolist())
    assert [sorted(order) for order in orders] == [list(range(8))] * 2
    assert orders[0] != orders[1]
    assert progress.seen == 16


def test_the_value_head_may_have_a_rate_of_its_own(actor_critic):
    together = parameter_groups(actor_critic, SETTINGS)
    assert len(together) == 1
    assert len(together[0]["params"]) == len(list(actor_critic.parameters()))
    rest, head = parameter_groups(actor_critic, replace(SETTINGS, value_learning_rate=1e-2))
    assert {id(weight) for weight in head["params"]} == {id(weight) for weight in actor_critic.value_head.parameters()}
    assert head["lr"] == 1e-2
    assert len(rest["params"]) + len(head["params"]) == len(together[0]["params"])


def test_a_far_value_target_pulls_only_as_far_as_the_value_clip(actor_critic, samples):
    """Once a value has moved by the clip range, its gradient is zero. So large rewards need a large range."""
    far = [replace(sample, value_target=50.0, advantage=0.0) for sample in samples]
    settings = {"ppo_epochs": 10, "ent_coef": 0.0, "vf_coef": 0.02}
    moved = {}
    for clip in (None, 100.0):
        after, _ = run_update(actor_critic, far, value_clip=clip, **settings)
        values = after.values([sample.item.prompt for sample in samples])
        moved[clip] = float(np.mean(values - [sample.item.value for sample in samples]))
    assert moved[100.0] > 3 * moved[None] > 0

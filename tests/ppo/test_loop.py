"""The training loop: when a run may be saved, and that it continues exactly from its state."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from rl4vlm.config.stages.cnn import CNNSettings, CNNSizes
from rl4vlm.core.types import Style
from rl4vlm.policies.cnn import CNNPolicy
from rl4vlm.ppo.cnn import build_model
from rl4vlm.ppo.initial import initial_state, make_slots
from rl4vlm.ppo.loop import train
from rl4vlm.training import optim
from tests.fakes import climb_slot

SETTINGS = CNNSettings(
    total_env_steps=48, num_envs=4, num_steps=16, ppo_epochs=2, minibatch_size=8, device="cpu",
    sizes=CNNSizes(image_size=40, channels=(4, 4, 4), width=16, text_embedding=4, text_width=8),
)  # fmt: skip


def new_state(settings=SETTINGS):
    torch.manual_seed(0)
    slots = [climb_slot(seed) for seed in range(settings.num_envs)]
    policy = CNNPolicy(build_model(slots, settings))
    return initial_state(policy, slots, Accelerator(cpu=True), settings, seed=1, thought_prob_coef=0.0)


def test_the_optimizer_is_fused_where_that_is_asked_for(monkeypatch):
    assert new_state().policy_optimizer.optimizer.param_groups[0]["fused"] is None
    monkeypatch.setattr(optim, "fused", lambda device: True)
    assert new_state().policy_optimizer.optimizer.param_groups[0]["fused"] is True


def weights_of(state):
    return torch.cat([parameter.detach().ravel() for parameter in state.policy_optimizer.policy.model.parameters()])


def test_a_run_may_be_stored_after_every_step_of_both_kinds(tmp_path):
    seen = []

    def on_step(state):
        progress = state.progress
        seen.append((state.update, len(state.steps), progress.epoch, progress.position, state.rollout is None))

    train(new_state(), SETTINGS, tmp_path, "test", on_step)
    played = [(1, steps, 0, 0, True) for steps in (1, 2, 3, 4)]
    optimised = [(1, 4, epoch, position, False) for epoch, position in ((0, 8), (1, 0), (1, 8), (2, 0))]
    assert seen[:9] == [*played, *optimised, (2, 0, 0, 0, True)]
    assert len(seen) == 3 * 9
    assert seen[-1][0] == 4


def test_a_rollout_is_forgotten_before_the_next_one_is_complete(tmp_path):
    alive: list[weakref.ref] = []

    def look(state):
        gc.collect()
        if state.rollout is None and len(state.steps) == SETTINGS.steps_per_env and state.update > 1:
            assert not any(one() for one in alive)
        if state.rollout is not None:
            alive[:] = [weakref.ref(sample.item) for sample in state.rollout.samples]

    train(new_state(), SETTINGS, tmp_path, "test", look)
    assert alive


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 4, 5, 8, 9, 20])
def test_a_run_taken_up_at_any_pause_ends_the_same(tmp_path, stop):
    """The loop keeps nothing in local variables: the state object is enough to continue."""
    whole = new_state()
    train(whole, SETTINGS, tmp_path / "whole", "test")
    state, count = new_state(), 0

    def on_step(_):
        nonlocal count
        count += 1
        if count == stop:
            raise Stopped

    with pytest.raises(Stopped):
        train(state, SETTINGS, tmp_path / "broken", "test", on_step)
    train(state, SETTINGS, tmp_path / "broken", "test", on_step)
    written = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "broken")]
    assert written[0] == written[1]
    assert torch.equal(weights_of(whole), weights_of(state))
    assert [json.loads(line)["update"] for line in written[0].splitlines()] == [1, 2, 3]


def test_an_environments_streams_depend_on_the_seed_and_its_index_alone():
    few, many = (make_slots("NumberLine", Style.ACTION_ONLY, 1, replace(SETTINGS, num_envs=envs)) for envs in (2, 4))
    drawn = [[slot.request.rng.random() for slot in slots] for slots in (few, many)]
    assert drawn[0] == drawn[1][:2]
    assert len(set(drawn[1])) == 4
    assert [slot.seed for slot in few] == [slot.seed for slot in many[:2]]

"""Defects of the public code as settings: off by default, and each does what it says when it is on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rl4vlm.config.stages.ppo import DefectSettings, PPOSettings
from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.core.types import Style
from rl4vlm.interaction.play import advance
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.dropout import add_dropout
from rl4vlm.policies.vlm import VLMPolicy
from rl4vlm.ppo.rollout import compute_advantages, rollout_step
from rl4vlm.ppo.train import run
from tests.fakes import climb_slot
from tests.ppo.test_train import SETTINGS


def metrics(init: Path, out: Path, **defects: Any) -> list[dict[str, Any]]:
    settings = replace(SETTINGS, total_env_steps=16, num_steps=4, ppo_epochs=1, defects=DefectSettings(**defects))
    run(task="EZPoints", style=Style.COT, init=init, out=out, seed=1, settings=settings)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_all_are_off_by_default() -> None:
    assert PPOSettings().defects == DefectSettings(first_prompt=False, schedule_steps=1, dropped_tokens=0, dropout=0)


def test_replies_are_stored_with_the_first_prompt_and_sampled_under_their_own(actor_critic: ActorCritic) -> None:
    slots = [climb_slot(seed) for seed in range(3)]
    requests = [slot.request for slot in slots]
    own = [step.reply.replay_item for step in advance(slots, VLMPolicy(actor_critic))]
    slots = [climb_slot(seed) for seed in range(3)]
    items = [step.reply.replay_item for step in advance(slots, VLMPolicy(actor_critic, scored_prompt="First."))]
    for request, item, same in zip(requests, items, own, strict=True):
        first = actor_critic.encoder.prompt(request.image, "First.")
        assert torch.equal(item.prompt.input_ids, first.input_ids)
        assert item.logprob_thoughts == same.logprob_thoughts


def test_dropped_tokens_count_neither_when_sampled_nor_when_scored(actor_critic: ActorCritic) -> None:
    @torch.no_grad()
    def scored(dropped: int) -> tuple[float, float]:
        policy = VLMPolicy(actor_critic, dropped_tokens=dropped)
        item = advance([climb_slot(0)], policy)[0].reply.replay_item
        now = policy.rescore(policy.model, [item])
        logprob = float(now.logprob_thoughts + now.logprob_action)
        assert item.logprob_thoughts + item.logprob_action == pytest.approx(logprob, abs=1e-4)
        return logprob, float(actor_critic.score([item.prompt], [item.ids]).logprobs[0, :dropped].sum())

    whole, _ = scored(0)
    rest, dropped = scored(2)
    assert dropped < -0.1
    assert rest == pytest.approx(whole - dropped, abs=1e-4)


def test_the_rate_falls_as_often_as_there_are_processes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rates = [line["learning_rate"] for line in metrics(tiny_checkpoint, tmp_path, schedule_steps=2)]
    # At its lowest after half of the updates, and then up again.
    assert rates == pytest.approx([1e-3, 5e-4, 1e-9, 5e-4], rel=1e-3)


@pytest.mark.parametrize("defects", [{"first_prompt": True}, {"dropout": 0.1}])
def test_the_first_ratio_is_not_one(defects: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert max(line["first_ratio_error"] for line in metrics(tiny_checkpoint, tmp_path, **defects)) > 1e-3


def test_dropout_is_on_in_evaluation_mode_too(actor_critic: ActorCritic) -> None:
    model = actor_critic.model.eval()
    ids = torch.arange(5)[None]
    torch.manual_seed(0)
    plain = [model(input_ids=ids).logits for _ in range(2)]
    add_dropout(model, 0.2)
    dropped = [model(input_ids=ids).logits for _ in range(2)]
    assert torch.equal(*plain)
    assert not torch.equal(*dropped)


def test_advantages_need_not_be_normalised(actor_critic: ActorCritic) -> None:
    settings = TrainingSettings(num_envs=2, num_steps=4, total_env_steps=4, normalise_advantages=False, gae_lambda=1)
    slots = [climb_slot(seed) for seed in range(2)]
    steps = [rollout_step(slots, VLMPolicy(actor_critic), settings) for _ in range(2)]
    samples = compute_advantages(steps, np.zeros(2), settings).samples
    for sample in samples:
        assert sample.advantage == pytest.approx(sample.value_target - sample.item.value)

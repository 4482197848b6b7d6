"""Tiny whole PPO runs on the real games."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.core.types import Style
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.ppo import train
from rl4vlm.ppo.initial import initial_state
from rl4vlm.ppo.train import run
from rl4vlm.training.store import StateFolder
from tests.games import GAMES

SETTINGS = PPOSettings(
    total_env_steps=16,
    num_envs=4,
    num_steps=8,
    ppo_epochs=2,
    minibatch_size=4,
    micro_batch_size=2,
    learning_rate=1e-3,
    temperature=1.0,
    max_new_tokens=12,
    value_sizes=(8,),
    device="cpu",
)


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("style", list(Style))
@pytest.mark.parametrize("task", GAMES)
def test_every_task_and_style_trains_from_a_ratio_of_one(task, style, tiny_checkpoint, tmp_path):
    settings = replace(SETTINGS, total_env_steps=8)
    run(task=task, style=style, init=tiny_checkpoint, out=tmp_path, seed=1, settings=settings)
    (line,) = metrics_of(tmp_path)
    assert line["env_steps"] == 8
    assert line["first_ratio_error"] < 1e-4
    assert line["entropy"] > 0
    assert line["logprob_thoughts"] + line["logprob_action"] < 0


def test_same_seed_same_bytes_other_seed_other_run(tiny_checkpoint, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(task="NumberLine", style=Style.COT, init=tiny_checkpoint, out=tmp_path / name, seed=seed, settings=SETTINGS)
    written = {name: (tmp_path / name / "metrics.jsonl").read_bytes() for name in "abc"}
    assert written["a"] == written["b"]
    assert written["a"] != written["c"]
    weights = [(tmp_path / name / "checkpoint" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_the_run_leaves_an_ordinary_checkpoint_and_its_record(tiny_checkpoint, tmp_path):
    run(task="NumberLine", style=Style.COT, init=tiny_checkpoint, out=tmp_path, seed=1, settings=SETTINGS)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint")
    AutoProcessor.from_pretrained(tmp_path / "checkpoint")
    again = ActorCritic.load(tmp_path / "checkpoint", temperature=1.0, max_new_tokens=4)
    assert [tuple(p.shape) for p in again.value_head.parameters()] == [(8, 32), (8,), (1, 8), (1,)]
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["settings"]["learning_rate"] == 1e-3
    assert record["seeds"] == {"ppo": 1}
    assert len((tmp_path / "timing.jsonl").read_text().splitlines()) == 2


def test_learning_rate_falls_over_the_runs_own_updates(tiny_checkpoint, tmp_path):
    settings = replace(SETTINGS, total_env_steps=32)
    run(task="NumberLine", style=Style.COT, init=tiny_checkpoint, out=tmp_path, seed=1, settings=settings)
    rates = [line["learning_rate"] for line in metrics_of(tmp_path)]
    assert rates == pytest.approx([1e-3, 8.5355e-4, 5e-4, 1.4645e-4], rel=1e-3)


def test_too_few_environments_are_found_before_the_model_is_loaded(tmp_path, monkeypatch):
    last_of_eight = SimpleNamespace(num_processes=8, process_index=7)
    monkeypatch.setattr(train, "accelerator_on", lambda *_: last_of_eight)
    with pytest.raises(ValueError, match="4 environments are too few for 8 processes"):
        run(task="NumberLine", style=Style.COT, init=tmp_path / "none", out=tmp_path, seed=1, settings=SETTINGS)


def test_a_run_that_diverges_stops_and_leaves_no_checkpoint(tiny_checkpoint, tmp_path):
    wild, resume_dir = replace(SETTINGS, learning_rate=1e30), StateFolder(tmp_path / "state", lambda: {"a.py": "1"})
    place = r"PPO NumberLine cot, update 1, \d+ samples into its optimisation: policy_loss is .*learning_rate"
    with pytest.raises(ValueError, match=place):
        run(
            task="NumberLine",
            style=Style.COT,
            init=tiny_checkpoint,
            out=tmp_path / "out",
            seed=1,
            settings=wild,
            resume_dir=resume_dir,
        )
    assert not list((tmp_path / "state").glob("*/*/training.pt"))
    assert not (tmp_path / "out" / "checkpoint").exists()


@pytest.mark.parametrize(("changes", "word"), [({"num_steps": 6}, "num_steps"), ({"total_env_steps": 4}, "env_steps")])
def test_settings_that_cannot_be_are_named(changes, word):
    with pytest.raises(ValueError, match=word):
        replace(SETTINGS, **changes)


def test_a_large_divergence_coefficient_keeps_the_replies_near_the_start(tiny_checkpoint, tmp_path):
    options = {"task": "NumberLine", "style": Style.COT, "init": tiny_checkpoint, "seed": 1}
    settings = replace(SETTINGS, total_env_steps=32, learning_rate=3e-3)
    for name, kl_coef in (("free", 1e-9), ("held", 3.0)):
        run(**options, out=tmp_path / name, settings=replace(settings, kl_coef=kl_coef))
    free, held = (metrics_of(tmp_path / name) for name in ("free", "held"))
    # The first update starts from the reference itself, and goes away from it in its later mini-batches only.
    assert 0 < held[-1]["reference_kl"] < 0.5 * free[-1]["reference_kl"]
    run(**options, out=tmp_path / "none", settings=settings)
    assert "reference_kl" not in metrics_of(tmp_path / "none")[0]


def test_frozen_weights_stay(tiny_checkpoint, tmp_path):
    settings = replace(SETTINGS, freeze=".*vision_tower.*", kl_coef=0.1)
    run(task="NumberLine", style=Style.COT, init=tiny_checkpoint, out=tmp_path, seed=1, settings=settings)
    before, after = (load_file(place / "model.safetensors") for place in (tiny_checkpoint, tmp_path / "checkpoint"))
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed
    assert not [name for name in changed if "vision_tower" in name]
    assert any("projector" in name for name in changed)


def test_validation_plays_without_the_reference(tiny_checkpoint, tmp_path, monkeypatch):
    scored, score = [], ActorCritic.score

    def counted(self, prompts, replies):
        if not next(self.parameters()).requires_grad:
            scored.extend(replies)
        return score(self, prompts, replies)

    monkeypatch.setattr(ActorCritic, "score", counted)
    settings = replace(SETTINGS, kl_coef=0.1, validation_every=1, validation_episodes=2)
    run(task="NumberLine", style=Style.COT, init=tiny_checkpoint, out=tmp_path, seed=1, settings=settings)
    assert metrics_of(tmp_path)[0]["validation_episodes"] == 2
    assert len(scored) == settings.total_env_steps


def test_a_warm_up_of_the_values_leaves_the_policy_alone(tiny_checkpoint, tmp_path):
    settings = replace(SETTINGS, value_warmup=2, detach_value=True, ent_coef=0.01)
    run(task="NumberLine", style=Style.COT, init=tiny_checkpoint, out=tmp_path, seed=1, settings=settings)
    before, after = (
        AutoModelForImageTextToText.from_pretrained(folder).state_dict()
        for folder in (tiny_checkpoint, tmp_path / "checkpoint")
    )
    assert all(weight.equal(after[name]) for name, weight in before.items())
    # Without the first of the two, the value loss reaches the layers that both share, or the policy does.
    for change in ({"detach_value": False}, {"value_warmup": 1}):
        run(
            task="NumberLine", style=Style.COT, init=tiny_checkpoint, out=tmp_path / str(change), seed=1,
            settings=replace(settings, **change),
        )  # fmt: skip
        moved = AutoModelForImageTextToText.from_pretrained(tmp_path / str(change) / "checkpoint").state_dict()
        assert not all(weight.equal(moved[name]) for name, weight in before.items())


def test_a_warm_up_of_the_values_with_ddp_is_refused():
    accelerator: Any = SimpleNamespace(num_processes=2, is_fsdp2=False)
    policy: Any = None
    with pytest.raises(ValueError, match="value_warmup does not work with DDP"):
        initial_state(policy, [], accelerator, replace(SETTINGS, value_warmup=1), 1, thought_prob_coef=0.5)

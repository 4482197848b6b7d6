"""The benchmark from end to end at tiny size: its table is complete and its numbers are positive."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import modes, rates, throughput
from benchmarks.backbones import SHAPES
from benchmarks.public_way import PublicWay
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.policies.vlm import VLMPolicy, VLMReplayItem

pytestmark = pytest.mark.system

TINY = ["--model", "llava-test", "--task", "EZPoints", "--tokens", "5", "--padded", "12", "--threads", "1"]
TINY += ["--steps-per-env", "1", "--repeats", "1"]
FEW = [*TINY, "--num-envs", "3", "--public-steps", "2"]


def test_a_small_run_fills_the_whole_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(2)
    throughput.main([*FEW, "--out", str(tmp_path / "made.json")])
    shown = capsys.readouterr().out.split("\n")
    header = next(line for line in shown if line.startswith("| mode"))
    rows = {line.split(" | ")[0]: line.split(" | ") for line in shown if line.startswith(("| ours", "| public"))}
    assert list(rows) == ["| ours", "| public"]
    assert {len(row) for row in rows.values()} == {len(header.split(" | "))}
    assert all(cell.strip(" |") for row in rows.values() for cell in row)
    whole = json.loads((tmp_path / "made.json").read_text())
    assert {"hardware", "packages", "date", "code", "tasks"} <= whole.keys()
    assert whole["hardware"]["threads"] == 1, "the option --threads"
    made = whole["tasks"]["EZPoints"]
    assert {"settings", "ceiling"} <= made.keys()
    assert all(value > 0 for value in made["ceiling"].values())
    for name, samples in (("ours", 3), ("public", 2)):
        (repeat,) = made["repeats"][name]
        for phase in ("rollout", "score", "update"):
            assert repeat[phase]["samples"] == samples
            assert repeat[phase]["seconds"] > 0
            assert all(work["flops"] > 0 or work["bytes"] > 0 for work in repeat[phase]["works"])
        assert 0 < repeat["rollout"]["reply_tokens"] <= 5 * samples
        assert made["hours"][name] > 0
        shares = [made["modes"][name][f"{phase}_share"] for phase in ("rollout", "score", "update")]
        assert all(share > 0 for share in shares)
    assert set(made["ratios"]) == {"rollout", "score", "update"}
    one, other = (made["repeats"][name][0]["update"] for name in ("public", "ours"))
    expected = one["seconds"] / one["samples"] / (other["seconds"] / other["samples"])
    assert made["ratios"]["update"] == [pytest.approx(expected)]
    expected = one["processor_seconds"] / one["samples"] / (other["processor_seconds"] / other["samples"])
    assert made["processor_ratios"]["update"] == [pytest.approx(expected)]


def test_a_frozen_vision_tower_leaves_both_modes_the_same_weights(tmp_path: Path) -> None:
    found = {}
    for options in ((), ("--freeze-vision",)):
        throughput.main([*FEW, "--modes", "ours", *options, "--out", str(tmp_path / "made.json")])
        found[options] = json.loads((tmp_path / "made.json").read_text())["tasks"]["EZPoints"]
    trained, frozen = found.values()
    tower = SHAPES["llava-test"]["vision_config"]
    assert trained["trained"] - frozen["trained"] > 2 * tower["num_hidden_layers"] * tower["hidden_size"] ** 2
    work, less = (one["repeats"]["ours"][0]["update"]["works"][0]["flops"] for one in (trained, frozen))
    assert 0.5 * work < less < work


def test_the_large_models_path_at_tiny_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The options of a GPU run (bfloat16, LoRA, mode ours only, a profile) on small shapes."""
    arguments = [
        "--lora-rank",
        "4",
        "--dtype",
        "bfloat16",
        "--modes",
        "ours",
        "--num-envs",
        "2",
        "--steps-per-env",
        "2",
    ]
    throughput.main([*TINY, *arguments, "--gradient-checkpointing", "--profile", str(tmp_path / "profile.txt")])
    shown = capsys.readouterr().out
    assert "15,000 environment steps, 4 epochs, extrapolated, mode ours" in shown
    assert "0 compiled graphs" in shown
    tables = (tmp_path / "profile.txt").read_text()
    assert "rollout, mode ours" in tables
    assert "aten::" in tables.partition("update, mode ours")[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so it would run")
def test_without_a_gpu_it_says_that_it_was_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made.json"
    throughput.main(["--device", "cuda", "--model", "llava-mistral-7b", "--out", str(out)])
    assert capsys.readouterr().out.startswith("Not run: --device cuda needs a GPU")
    made = json.loads(out.read_text())
    assert "not_run" in made
    assert "modes" not in made


def test_the_large_models_defaults_are_the_papers() -> None:
    settings = throughput.settings_of(throughput.parse(["--device", "cuda", "--model", "llava-mistral-7b"]))
    assert (settings.dtype, settings.lora_rank, settings.tokens, settings.modes) == ("bfloat16", 128, 128, ("ours",))


def test_a_micro_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    mode: Any = object.__new__(modes.Mode)
    mode.training = modes.TrainingSettings(total_env_steps=8, num_envs=2, num_steps=8, micro_batch_size=8)
    mode.slots = [None, None]
    tried: list[int] = []
    mode.policy_optimizer = SimpleNamespace(optimizer=SimpleNamespace(zero_grad=lambda: None))

    def repeat() -> None:
        tried.append(mode.training.micro_batch_size)
        if tried[-1] > 2:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(mode, "repeat", repeat, raising=False)
    mode.warm_up()
    assert tried == [8, 4, 2]
    assert mode.about() == {"num_envs": 2, "micro_batch_size": 2}


def test_hours_are_extrapolated_from_whole_updates() -> None:
    def phase(seconds: float) -> rates.Phase:
        return rates.Phase(seconds, seconds, 10, 0, 0, (), None)

    # 0.5 s per step to play; 0.25 s per sample and epoch to learn.
    repeat = rates.Repeat(phase(5.0), phase(1.0), phase(2.5), 10)
    assert rates.hours([repeat]) == pytest.approx(15_000 * 1.5 / 3600)
    again = repeat.score.seconds / repeat.score.samples
    assert rates.hours([repeat], rescored=True) == pytest.approx(15_000 * (1.5 + again) / 3600)


def test_both_ways_score_the_same(actor_critic: ActorCritic) -> None:
    """The public code's way computes the same numbers with more work."""
    rng = np.random.default_rng(0)
    encoder = actor_critic.encoder
    items = []
    for text, reply in (("Read.", "stand"), ("You see a number line.", '"action": "+"')):
        prompt = encoder.prompt(rng.integers(0, 256, size=(300, 300, 3), dtype=np.uint8), text)
        ids = encoder.reply(reply)
        items.append(VLMReplayItem(prompt, ids, 1, -2.0, -1.0, 0.5, torch.zeros(len(ids))))
    ours = VLMPolicy(actor_critic).rescore(actor_critic, items)
    public = PublicWay(actor_critic, padded=40).rescore(actor_critic, items)
    torch.testing.assert_close(ours.logprob_thoughts, public.logprob_thoughts, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(ours.logprob_action, public.logprob_action, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(ours.value, public.value, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.old_logprob_thoughts, public.old_logprob_thoughts)
    assert torch.equal(ours.old_logprob_action, public.old_logprob_action)


def test_the_public_way_trains_no_vision_tower(actor_critic: ActorCritic) -> None:
    encoder = actor_critic.encoder
    prompt = encoder.prompt(np.zeros((300, 300, 3), np.uint8), "Read.")
    ids = encoder.reply("stand")
    item = VLMReplayItem(prompt, ids, 1, -2.0, -1.0, 0.5, torch.zeros(len(ids)))
    now = PublicWay(actor_critic, padded=20).rescore(actor_critic, [item])
    (now.logprob_thoughts + now.logprob_action).sum().backward()
    parts = actor_critic.model.model
    assert all(weight.grad is None for weight in parts.vision_tower.parameters())
    assert all(weight.requires_grad for weight in parts.vision_tower.parameters())
    assert any(weight.grad is not None for weight in parts.language_model.parameters())

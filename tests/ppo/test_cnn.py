"""PPO of the CNN+RL baseline: invariants, tiny whole runs on the real games, and a game that it learns."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from rl4vlm.cli import main
from rl4vlm.config.load import load_config, stage_settings
from rl4vlm.config.overrides import setting_words
from rl4vlm.config.stages.cnn import CNNSettings, CNNSizes
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.core.seeding import stream
from rl4vlm.core.types import Style
from rl4vlm.models.cnn import CNNActorCritic
from rl4vlm.policies.cnn import CNNPolicy
from rl4vlm.ppo.cnn import build_model, run
from rl4vlm.ppo.policy_optimizer import PolicyOptimizer
from rl4vlm.ppo.rollout import Sample, compute_advantages, rollout_step
from rl4vlm.ppo.train import run as run_vlm
from rl4vlm.ppo.update import UpdateProgress, optimizer_steps
from rl4vlm.training.distributed import Processes
from tests.fakes import ClimbTask, climb_slot
from tests.games import GAMES
from tests.launch import ROOT

SIZES = CNNSizes(image_size=40, channels=(4, 4, 4), width=16, text_embedding=4, text_width=8)
ALONE = Processes(Accelerator(cpu=True), timeout=1.0)
SETTINGS = CNNSettings(
    total_env_steps=32,
    num_envs=4,
    num_steps=16,
    ppo_epochs=2,
    minibatch_size=8,
    learning_rate=1e-3,
    temperature=1.0,
    sizes=SIZES,
    device="cpu",
)


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def collect(slots, policy, settings):
    """One rollout of the settings' length."""
    steps = [rollout_step(slots, policy, settings) for _ in range(settings.steps_per_env)]
    return compute_advantages(steps, policy.values([slot.request for slot in slots]), settings)


def update(model, optimizer, samples, settings, rng):
    """A whole update; returns its metrics."""
    progress = UpdateProgress()
    policy_optimizer = PolicyOptimizer(CNNPolicy(model), model, optimizer, Accelerator(cpu=True), 0.0)
    for _ in optimizer_steps(policy_optimizer, samples, progress, settings, rng):
        pass
    return progress.means(ALONE)


def climbing(settings=SETTINGS):
    """Slots of the climbing game, a new network for it, and one rollout."""
    torch.manual_seed(0)
    slots = [climb_slot(seed) for seed in range(settings.num_envs)]
    model = build_model(slots, settings)
    # A policy far from uniform, so that the observation makes a difference.
    torch.nn.init.normal_(model.policy_head.weight, std=0.5)
    return slots, model, collect(slots, CNNPolicy(model), settings)


@pytest.mark.parametrize("task", GAMES)
def test_every_task_trains_from_a_ratio_of_one(task, tmp_path):
    run(task=task, out=tmp_path, seed=1, settings=replace(SETTINGS, total_env_steps=16))
    (line,) = metrics_of(tmp_path)
    assert line["env_steps"] == 16
    assert line["first_ratio_error"] < 1e-4
    assert line["entropy"] > 0
    assert line["logprob_action"] < 0
    assert line["fallback_rate"] == 0
    config = json.loads((tmp_path / "checkpoint" / "cnn.json").read_text())
    assert config["reads_text"] is (task in ("EZPoints", "Points24"))


def test_metrics_have_the_names_of_the_methods_own(tiny_checkpoint, tmp_path):
    settings = PPOSettings(
        total_env_steps=4, num_envs=2, num_steps=4, minibatch_size=4, max_new_tokens=2, value_sizes=(8,), device="cpu"
    )
    run_vlm(task="NumberLine", style=Style.COT, init=tiny_checkpoint, out=tmp_path / "vlm", seed=1, settings=settings)
    run(task="NumberLine", out=tmp_path / "cnn", seed=1, settings=SETTINGS)
    (theirs,), (ours, _) = metrics_of(tmp_path / "vlm"), metrics_of(tmp_path / "cnn")
    assert list(ours) == list(theirs)
    assert (ours["logprob_thoughts"], ours["reply_tokens"]) == (None, None)


def test_same_seed_same_bytes_other_seed_other_run(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(task="EZPoints", out=tmp_path / name, seed=seed, settings=SETTINGS)
    for file in ("metrics.jsonl", "checkpoint/cnn.safetensors"):
        written = {name: (tmp_path / name / file).read_bytes() for name in "abc"}
        assert written["a"] == written["b"]
        assert written["a"] != written["c"]


def test_a_run_that_diverges_stops_and_leaves_no_checkpoint(tmp_path):
    place = r"CNN NumberLine, update \d+, \d+ samples into its optimisation: policy_loss is nan"
    with pytest.raises(ValueError, match=place):
        run(task="NumberLine", out=tmp_path, seed=1, settings=replace(SETTINGS, learning_rate=1e30))
    assert not (tmp_path / "checkpoint").exists()


def test_the_run_leaves_its_record_and_a_checkpoint_that_evaluates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["total_env_steps=32", "num_envs=4", "num_steps=16", "sizes.image_size=40", "device=cpu"]
    assert main(["cnn", "--task", "Blackjack", "--seed", "3", "--out", "run", "--set", *words]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["stage"], record["seeds"]) == ("cnn", {"cnn": 3})
    assert (record["settings"]["task"], record["settings"]["sizes"]["image_size"]) == ("Blackjack", 40)
    assert len((tmp_path / "run" / "timing.jsonl").read_text().splitlines()) == 2
    arguments = ["evaluate", "run/checkpoint", "Blackjack", "--style", "nocot", "--out", "eval"]
    assert main([*arguments, "--set", "episodes=5", "device=cpu"]) == 0
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert (summary["episodes"], summary["outcomes"].keys()) == (5, {"ok"})
    assert (summary["method"], summary["kind"], summary["seed"], summary["lambda"]) == ("CNN+RL", "cnn", 3, None)
    # Evaluated at the training temperature: the policy that was trained, not another one.
    assert json.loads((tmp_path / "eval" / "run.json").read_text())["settings"]["temperature"] == 1.0
    assert summary["logprob_thoughts"] is None
    assert summary["logprob_action"] < 0
    assert main(["evaluate", "run/checkpoint", "NumberLine", "--set", "episodes=1", "device=cpu"]) == 2
    assert "knows the actions stand, hit, not '-'" in capsys.readouterr().err


def test_a_wrong_observation_shows_in_the_first_ratio():
    """The public code's defect: steps are rescored under the observation of another step."""
    _, model, rollout = climbing()
    first = rollout.samples[0].item.observation
    wrong = [Sample(replace(s.item, observation=first), s.advantage, s.value_target) for s in rollout.samples]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    measured = update(model, optimizer, wrong, SETTINGS, stream(1, "minibatches"))
    assert measured["first_ratio_error"] > 1e-2


def test_a_step_of_no_size_leaves_every_ratio_at_one():
    _, model, rollout = climbing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    measured = update(model, optimizer, rollout.samples, SETTINGS, stream(1, "minibatches"))
    assert measured["first_ratio_error"] < 1e-4
    assert measured["clip_fraction"] == 0
    assert measured["approx_kl"] == pytest.approx(0, abs=1e-6)


def test_with_changing_actions_the_first_ratio_is_one_too(monkeypatch):
    monkeypatch.setattr(ClimbTask, "changing_actions", True)
    _, model, rollout = climbing()
    assert {len(sample.item.observation.legal) for sample in rollout.samples} == {2, 3}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    measured = update(model, optimizer, rollout.samples, SETTINGS, stream(1, "minibatches"))
    assert measured["first_ratio_error"] < 1e-4
    assert measured["entropy"] > 0


def test_advantages_are_normalised_and_rewards_flow_back():
    _, _, rollout = climbing(replace(SETTINGS, total_env_steps=128, num_steps=128))
    advantages = np.array([sample.advantage for sample in rollout.samples])
    assert (advantages.mean(), advantages.std(ddof=1)) == pytest.approx((0, 1), abs=1e-3)
    by_action = {action: advantages[[s.item.action == action for s in rollout.samples]].mean() for action in range(3)}
    assert max(by_action, key=lambda action: by_action[action]) == 0


def test_bootstrapping_adds_the_discounted_value_of_the_last_state():
    """One environment whose first episode is cut off at its sixth step, and a critic that always predicts 10."""

    def targets(**changes):
        settings = replace(SETTINGS, num_envs=1, num_steps=6, gamma=0.5, gae_lambda=0.0, **changes)
        model = CNNActorCritic(("wait", "up", "go down"), reads_text=True, sizes=SIZES, temperature=1.0)
        torch.nn.init.zeros_(model.value_head.weight)
        torch.nn.init.constant_(model.value_head.bias, 10.0)
        torch.nn.init.constant_(model.policy_head.bias, 0.0)
        model.policy_head.bias.data[0] = 1e3  # always waits
        return [sample.value_target for sample in collect([climb_slot()], CNNPolicy(model), settings).samples]

    assert targets() == pytest.approx([5, 5, 5, 5, 5, 0])
    assert targets(bootstrap_truncated=True) == pytest.approx([5] * 6)


def test_an_update_moves_probability_towards_the_advantage():
    _, model, rollout = climbing()
    items: list[Any] = [sample.item for sample in rollout.samples]
    samples = [Sample(item, 1.0 if item.action == 1 else -1.0, 0.0) for item in items]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    update(model, optimizer, samples, replace(SETTINGS, ppo_epochs=4), stream(1, "minibatches"))
    with torch.no_grad():
        log_probs, _ = model([item.observation for item in items])
    for row, (item, sample) in enumerate(zip(items, samples, strict=True)):
        moved = float(log_probs[row, item.action]) - item.log_prob
        assert moved * sample.advantage > 0


@pytest.mark.parametrize("changing", [False, True], ids=["one list of actions", "each step's own"])
def test_learns_to_climb(changing, monkeypatch):
    monkeypatch.setattr(ClimbTask, "changing_actions", changing)
    settings = replace(
        SETTINGS,
        total_env_steps=1024,
        num_envs=8,
        num_steps=128,
        ppo_epochs=4,
        minibatch_size=32,
        learning_rate=3e-3,
        clip_range=0.2,
    )
    torch.manual_seed(0)
    slots = [climb_slot(seed) for seed in range(8)]
    model = build_model(slots, settings)
    assert (model.actions is None) is changing
    policy, rng = CNNPolicy(model), stream(1, "minibatches")
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    lengths = []
    for _ in range(settings.updates):
        rollout = collect(slots, policy, settings)
        lengths.append(np.mean([episode.length for episode in rollout.episodes]))
        update(model, optimizer, rollout.samples, settings, rng)
    assert lengths[0] > 3
    assert lengths[-1] < 1.7  # the optimum is 1.5: half of the episodes start on floor 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"num_steps": 18}, "num_steps"), ({"total_env_steps": 4}, "env_steps"), ({"temperature": 0.0}, "temperature")],
)
def test_settings_that_cannot_be_are_named(changes, word):
    with pytest.raises(ValueError, match=word):
        replace(SETTINGS, **changes)


AND_ITS_PEAK = """
import resource, sys
from rl4vlm.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.system
def test_rollouts_of_the_default_fit_into_the_memory_of_its_job(tmp_path):
    """When the memory of the images was fragmented, two rollouts took 2.3 GB."""
    config = load_config([ROOT / "config" / "config.yaml"])
    settings = {**stage_settings(config, "cnn", "NumberLine"), "device": "cpu", "ppo_epochs": 1}
    settings["total_env_steps"] = 2 * settings["num_steps"]
    words = ["cnn", "--task", "NumberLine", "--seed", "1", "--out", str(tmp_path / "out")]
    words += ["--set", *setting_words(settings)]
    run = subprocess.run([sys.executable, "-c", AND_ITS_PEAK, *words], stdout=subprocess.PIPE, text=True, check=True)
    assert int(run.stdout.split()[-1]) / 1024 < 0.6 * config["resources"]["cnn"]["mem_mb"]

"""Which policies a run keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from rl4vlm.config.stages.cnn import CNNSettings, CNNSizes
from rl4vlm.core.types import Style
from rl4vlm.models.cnn import CNNActorCritic
from rl4vlm.policies.cnn import CNNPolicy
from rl4vlm.ppo.cnn import build_model, run
from rl4vlm.ppo.initial import initial_state, make_slots
from rl4vlm.ppo.keep import add_kept, forget_kept, keep_checkpoints
from rl4vlm.training import resume
from rl4vlm.training.store import StateFolder
from tests.interrupt import SimulatedKill

SETTINGS = CNNSettings(
    num_envs=1,
    num_steps=4,
    total_env_steps=40,
    keep_checkpoints=4,
    validation_every=1,
    device="cpu",
    sizes=CNNSizes(width=4),
)
RATES = [None, 0.2, 0.5, 0.5, None, 0.4, 0.6, 0.1, None, None]  # after the updates 1 to 10


def weights(folder: Path) -> float:
    return float(next(CNNActorCritic.load(folder, temperature=1.0).parameters()).detach().flatten()[0])


def test_every_fourth_and_the_first_of_the_best_are_kept(tmp_path: Path) -> None:
    slots = make_slots("NumberLine", Style.ACTION_ONLY, 1, SETTINGS)
    policy = CNNPolicy(build_model(slots, SETTINGS))
    state = initial_state(policy, slots, Accelerator(cpu=True), SETTINGS, 1, thought_prob_coef=0.0)
    out = tmp_path / ".unfinished"
    for state.update, rate in enumerate(RATES, start=1):
        next(policy.model.parameters()).data.fill_(state.update)
        keep_checkpoints(state, replace(SETTINGS, keep_checkpoints=0), tmp_path / "none", rate)
        keep_checkpoints(state, SETTINGS, out, rate)
    assert state.best == 0.6
    assert not out.exists()  # a draft is emptied when a killed run continues
    (tmp_path / ".unfinished.kept" / ".best.killed" / "new").mkdir(parents=True)
    add_kept(out)
    forget_kept(out)
    kept = {folder.name: weights(folder) for folder in (out / "checkpoints").iterdir()}
    assert kept == {"update0004": 4, "update0008": 8, "best": 7}
    assert [path.name for path in tmp_path.iterdir()] == [".unfinished"]


def test_a_run_that_is_killed_once_its_outputs_are_in_place_still_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, total_env_steps=8, keep_checkpoints=1, validation_every=0)
    publish = resume.publish

    def killed(out: Path) -> None:
        publish(out)
        raise SimulatedKill

    def train() -> None:
        states = StateFolder(tmp_path / "states", dict)
        run(task="NumberLine", out=tmp_path / "out", seed=1, settings=settings, resume_dir=states)

    with monkeypatch.context() as patched:
        patched.setattr(resume, "publish", killed)
        with pytest.raises(SimulatedKill):
            train()
    train()
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["update0001"]
    assert not (tmp_path / "out" / ".unfinished.kept").exists()

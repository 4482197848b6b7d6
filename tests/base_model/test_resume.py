"""A pre-training that is killed anywhere and resumed ends with the same bytes as one that is not."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from rl4vlm.base_model.pretrain import run
from rl4vlm.cli import main
from rl4vlm.config.stages.pretrain import PretrainSettings, TinySizes
from rl4vlm.core.files import sha256_of
from rl4vlm.training.signals import Interrupted
from rl4vlm.training.store import StateFolder
from tests.interrupt import kill_and_resume_until_done, on_step_hook

SETTINGS = PretrainSettings(
    pretrain_tasks=("NumberLine", "Blackjack"), steps=6, batch_size=4, muon_learning_rate=1e-3, corpus=10, probe=4,
    save_minutes=1e-9, device="cpu",
    sizes=TinySizes(image_size=60, width=32, vision_layers=1, language_layers=1, heads=2, mlp=64),
)  # fmt: skip


def train(folder: Path, *, keep: bool = True, **changes: object) -> tuple[str, str | None, str]:
    """The losses, the weights' checksum and the perception of a run in `folder`."""
    states = StateFolder(folder.parent / "state", lambda: {"a.py": "1"}) if keep else None
    run(out=folder, settings=replace(SETTINGS, **changes), resume_dir=states)  # type: ignore[arg-type]
    found = (folder / "metrics.jsonl").read_text(), sha256_of(folder / "model.safetensors")
    return *found, (folder / "perception.json").read_text()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str | None, str]:
    return train(tmp_path_factory.mktemp("unbroken") / "base", keep=False)


def test_killed_anywhere_it_ends_with_the_same_results(tmp_path: Path, unbroken: tuple[str, str | None, str]) -> None:
    result, kills = kill_and_resume_until_done(lambda name: train(tmp_path / name), random.Random(3), unbroken)
    assert result == unbroken
    assert kills >= 2
    assert not (tmp_path / "state").exists()
    assert [json.loads(line)["step"] for line in result[0].splitlines()] == [1, 2, 3, 4, 5, 6]


def test_another_batch_size_does_not_continue_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(state: object) -> None:
        if state.done == 3:  # type: ignore[attr-defined]
            raise Interrupted(15, "stopped")

    with on_step_hook(stop), pytest.raises(Interrupted):
        train(tmp_path / "base")
    train(tmp_path / "base", batch_size=5)
    assert "continuing from" not in capsys.readouterr().err
    train(tmp_path / "base")
    assert "step 2 of 6" in capsys.readouterr().err


def test_what_is_not_trained_has_no_state_and_no_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["base-model", "--out", str(tmp_path / "base"), "--state", str(tmp_path / "state")]
    for ready in (["--copy", str(tmp_path)], ["--download", "no/model"]):
        assert main([*words, *ready]) == 2
        assert "--state is for pre-training" in capsys.readouterr().err
        assert main(["base-model", "--out", str(tmp_path / "base"), *ready, "--set", "steps=5"]) == 2
        assert "--set is for pre-training" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

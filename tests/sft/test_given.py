"""Demonstrations from elsewhere (`sft_data.given`), with the command that the workflow runs on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rl4vlm.cli import main

SETTINGS = ["epochs=1", "batch_size=4", "micro_batch_size=2", "learning_rate=0.01", "device=cpu"]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A LLaVA JSON file like the published data sets: images of any size and format in folders below it."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    entries = []
    for number in range(8):
        image = Image.fromarray(rng.integers(0, 256, (40 + number, 60, 3), np.uint8))
        image.convert("RGB" if number % 2 else "L").save(tmp_path / "images" / f"{number}.jpg")
        reply = json.dumps({"thoughts": "The target is larger.", "action": "+-"[number % 2]})
        turns = [{"from": "human", "value": "<image>\nWhat now?"}, {"from": "gpt", "value": reply}]
        entries.append({"id": str(number), "image": f"images/{number}.jpg", "conversations": turns})
    file = tmp_path / "published.json"
    file.write_text(json.dumps(entries))
    return file


def test_a_given_file_is_trained_on_and_recorded(given: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--data", str(given), "--init", str(tiny_checkpoint), "--out", str(out)]
    assert main(["sft", *arguments, "--set", *SETTINGS, "epochs=4"]) == 0
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 8
    assert losses[-1] < 0.8 * losses[0]
    record = json.loads((out / "run.json").read_text())
    assert record["inputs"]["data"]["path"] == str(given)
    assert main(["evaluate", str(out / "checkpoint"), "NumberLine", "--out", str(tmp_path / "eval"), "--set",
                 "episodes=1", "max_new_tokens=2", "device=cpu"]) == 0  # fmt: skip


def test_an_end_token_in_a_reply_is_named_and_nothing_is_written(
    given: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given.write_text(given.read_text().replace("larger.", "larger.</s>", 1))
    out = tmp_path / "out"
    arguments = ["--data", str(given), "--init", str(tiny_checkpoint), "--out", str(out)]
    assert main(["sft", *arguments, "--set", *SETTINGS]) == 2
    assert f"{given}, sample '0': the reply holds '</s>'" in capsys.readouterr().err
    assert not out.exists()


def test_a_image_that_is_not_there_is_named_and_nothing_is_written(
    given: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (given.parent / "images" / "3.jpg").unlink()
    out = tmp_path / "out"
    arguments = ["--data", str(given), "--init", str(tiny_checkpoint), "--out", str(out)]
    assert main(["sft", *arguments, "--set", *SETTINGS]) == 2
    assert "3.jpg" in capsys.readouterr().err
    assert not out.exists()

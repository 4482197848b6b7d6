"""Which runs a result depends on, by the records of the runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl4vlm.core.files import RECORD, sha256_of
from rl4vlm.core.output import output_checksums
from rl4vlm.results.lineage import run_that_wrote, runs_behind
from tests.results.synthetic import write_json


def add_run(folder: Path, stage: str, **inputs: Path) -> None:
    """A run with a checkpoint and a policy that it kept, and the record of both."""
    for checkpoint in ("checkpoint", "checkpoints/update-10"):
        (folder / checkpoint).mkdir(parents=True)
        (folder / checkpoint / "model.safetensors").write_text(f"{folder} {checkpoint}")
    made_from = {name: {"path": str(path), "sha256": sha256_of(path)} for name, path in inputs.items()}
    write_json(folder / RECORD, {"stage": stage, "inputs": made_from, "outputs": output_checksums(folder, RECORD)})


@pytest.mark.parametrize("checkpoint", ["checkpoint", "checkpoints/update-10"])
def test_the_trainings_behind_an_evaluation(tmp_path: Path, checkpoint: str) -> None:
    results = tmp_path / "results"
    add_run(results / "base_model" / "cards", "base_model")
    add_run(results / "sft" / "a", "sft", init=results / "base_model" / "cards")
    add_run(results / "ppo" / "a", "ppo", init=results / "sft" / "a" / "checkpoint")
    add_run(results / "eval" / "ppo-a", "evaluation", policy=results / "ppo" / "a" / checkpoint)
    moved = results.rename(tmp_path / "moved")
    assert runs_behind(moved, ["eval/ppo-a"]) == ["base_model/cards", "eval/ppo-a", "ppo/a", "sft/a"]


def test_a_run_of_other_results_with_the_same_name_is_not_behind_it(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    add_run(ours / "sft" / "a", "sft")
    add_run(theirs / "sft" / "a", "sft")
    add_run(ours / "ppo" / "a", "ppo", init=theirs / "sft" / "a" / "checkpoint")
    assert runs_behind(ours, ["ppo/a"]) == ["ppo/a"]


@pytest.mark.parametrize("path", ["/opt", "/opt/checkpoint", "/checkpoints/llava", "/", ".", "model", ""])
def test_an_input_directly_below_the_root_is_of_no_run(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "sft" / "a"
    folder.mkdir(parents=True)
    write_json(folder / RECORD, {"stage": "sft", "inputs": {"init": {"path": path, "sha256": None}}})
    assert runs_behind(tmp_path, ["sft/a"]) == ["sft/a"]


def test_a_checkpoint_that_was_given_by_a_link(tmp_path: Path) -> None:
    add_run(tmp_path / "sft" / "a", "sft")
    link = tmp_path / "latest"
    link.symlink_to(tmp_path / "sft" / "a" / "checkpoint")
    assert run_that_wrote({"path": str(link), "sha256": sha256_of(link)}) == tmp_path / "sft" / "a"

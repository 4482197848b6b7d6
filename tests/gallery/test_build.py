"""Builds the gallery from evaluations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.cli import main
from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.core.files import sha256_of
from rl4vlm.gallery.build import build_gallery, gallery_data, run_labels
from rl4vlm.results.read import load_recording


@pytest.fixture(scope="module")
def data(evaluated: list[Path]) -> dict[str, Any]:
    return gallery_data([load_recording(folder) for folder in evaluated], "embedded", GallerySettings(episodes=6))


def test_shows_every_evaluation_with_the_requested_number_of_episodes(
    data: dict[str, Any], evaluated: list[Path]
) -> None:
    assert [run["name"] for run in data["runs"]] == [folder.name for folder in evaluated]
    assert {len(run["episodes"]) for run in data["runs"]} == {6}
    assert data["runs"][1]["totals"]["success_rate"] == pytest.approx(100 * 8 / 24, abs=30)


def test_names_the_games_of_tasks_whose_games_are_data(data: dict[str, Any]) -> None:
    games = [run["totals"]["games"] for run in data["runs"]]
    assert games == [None, None, None, None, None, "official games, drawn pictures, <b>seen</b>"]


def test_steps_equal_the_record(data: dict[str, Any], evaluated: list[Path]) -> None:
    records = {each["episode"]: each for each in load_recording(evaluated[1]).episodes}
    outcomes = set()
    for episode in data["runs"][1]["episodes"]:
        record = records[episode["number"]]
        assert (episode["won"], episode["return"], episode["seed"]) == (
            record["success"],
            record["return"],
            record["seed"],
        )
        for step, entry in zip(episode["steps"], record["steps"], strict=True):
            assert step["thoughts"] + step["key"] == entry["reply"]
            assert step["numbers"]["logprob_thoughts"] == entry["logprob_thoughts"]
            assert (step["action"], step["reward"]) == (entry["action"], entry["reward"])
            assert step["key"].startswith('"action"') == (step["outcome"] == "ok")
            outcomes.add(step["outcome"])
    assert outcomes == {"ok", "no_action_key"}


def test_images_and_prompts_are_stored_once(data: dict[str, Any]) -> None:
    steps = [step for run in data["runs"] for episode in run["episodes"] for step in episode["steps"]]
    assert len(data["images"]) < len(steps)
    assert len(set(data["prompts"])) == len(data["prompts"])
    assert {step["prompt"] for step in steps} == set(range(len(data["prompts"])))


def test_the_same_evaluations_give_the_same_bytes(evaluated: list[Path], tmp_path: Path) -> None:
    first = build_gallery(evaluations=evaluated, scale="s", out=tmp_path / "a", settings=GallerySettings())
    assert main(["gallery", "--results", str(evaluated[0].parents[1]), "--out", str(tmp_path / "b"), "--scale", "s",
                 "--evaluations", *(str(folder) for folder in evaluated)]) == 0  # fmt: skip
    second = tmp_path / "b" / "index.html"
    assert first.read_bytes() == second.read_bytes()


def test_labels_tell_the_runs_of_a_task_apart(evaluated: list[Path]) -> None:
    run = load_recording(evaluated[1])

    def like(method: str, lam: float | None, seed: int | None, task: str = "NumberLine", name: str = "run") -> Any:
        summary = {"method": method, "lambda": lam, "seed": seed}
        return replace(run, task=task, summary=summary, file=Path(name, "episodes.jsonl"))

    runs = [
        like("RL4VLM", 0.5, 1),
        like("RL4VLM", 0.5, 2),
        like("RL4VLM", 0.3, 1),
        like("RL4VLM", 0.5, 1, task="EZPoints"),
        like("mine", None, None, name="a"),
        like("mine", None, None, name="b"),
    ]
    assert run_labels(runs) == [
        "RL4VLM, lambda 0.5, seed 1",
        "RL4VLM, lambda 0.5, seed 2",
        "RL4VLM, lambda 0.3",
        "RL4VLM",
        "mine (a)",
        "mine (b)",
    ]


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no evaluation"):
        build_gallery(evaluations=[], scale="s", out=tmp_path, settings=GallerySettings())
    with pytest.raises(ValueError, match="episodes"):
        GallerySettings(episodes=0)


def test_a_gallery_that_fails_leaves_the_old_one(evaluated: list[Path], tmp_path: Path) -> None:
    file = build_gallery(evaluations=evaluated[:1], scale="s", out=tmp_path, settings=GallerySettings(episodes=1))
    before = file.read_bytes()
    with pytest.raises(ValueError, match="missing"):
        build_gallery(evaluations=[tmp_path / "none"], scale="s", out=tmp_path, settings=GallerySettings())
    assert file.read_bytes() == before


def test_its_record_names_what_it_shows(evaluated: list[Path], tmp_path: Path) -> None:
    build_gallery(evaluations=evaluated[:1], scale="s", out=tmp_path, settings=GallerySettings(episodes=1))
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["stage"], record["settings"]) == ("gallery", {"scale": "s", "episodes": 1})
    name = evaluated[0].name
    assert {key: read["sha256"] for key, read in record["inputs"].items()} == {
        f"{name}/{file}": sha256_of(evaluated[0] / file) for file in ("episodes.jsonl", "run.json", "summary.json")
    }


def test_needs_no_torch(evaluated: list[Path], tmp_path: Path) -> None:
    script = (
        "import sys; from rl4vlm.cli import main; main(sys.argv[1:]);"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy'"
    )
    words = ["gallery", "--evaluations", str(evaluated[0]), "--results", str(tmp_path), "--out", str(tmp_path)]
    subprocess.run([sys.executable, "-c", script, *words], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    page = (tmp_path / "index.html").read_text()
    assert json.dumps("NumberLine") in page

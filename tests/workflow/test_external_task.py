"""A task in another package goes through every stage without an edit of this project (docs/add-a-task.md)."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.workflow.conftest import ROOT, Workspace

pytestmark = pytest.mark.system

PACKAGE = ROOT / "tests" / "external_task"
OVERLAYS = ("--configfile", "config/smoke.yaml", str(PACKAGE / "config.yaml"))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    space = Workspace(tmp_path_factory.mktemp("external"))
    done = space.snakemake(*OVERLAYS, profile="profiles/default", pythonpath=PACKAGE, fork_jobs=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return space


@pytest.fixture
def results(space: Workspace) -> Path:
    return space.folder / "results" / "external"


def test_demonstrations_are_the_solvers(results: Path) -> None:
    samples = json.loads((results / "sft_data" / "HigherCard-cot" / "data.json").read_text())
    question, answer = (turn["value"] for turn in samples[0]["conversations"])
    assert "higher card" in question
    assert '"cards": [' in answer


def test_it_was_trained_and_evaluated(results: Path) -> None:
    runs = sorted(folder.name for folder in (results / "eval").iterdir())
    assert runs == [
        "cnn-HigherCard-seed1",
        "ppo-HigherCard-cot-lambda0.5-seed1",
        "random-HigherCard",
        "sft-HigherCard-cot-seed1",
        "solver-HigherCard",
    ]
    for run in runs:
        summary = json.loads((results / "eval" / run / "summary.json").read_text())
        assert summary["task"] == "HigherCard"
        assert summary["episodes"] > 0
    solved = json.loads((results / "eval" / "solver-HigherCard" / "summary.json").read_text())
    assert solved["success_rate"] == 100.0


def test_it_has_its_row_in_the_tables(results: Path) -> None:
    rows = (results / "tables" / "main.csv").read_text().splitlines()
    assert any(row.startswith("RL4VLM,HigherCard,reproduced,smoke,") for row in rows)


def test_jobs_keep_to_the_threads_they_were_granted(results: Path) -> None:
    for record in results.glob("*/*/run.json"):
        made = json.loads(record.read_text())
        assert made["hardware"]["threads"] in (None, 1), record


def test_the_report_lies_beside_the_results_of_its_config(space: Workspace, results: Path) -> None:
    assert (results / "report.html").stat().st_size > 100_000
    assert not (space.folder / "results" / "report.html").exists()


def test_an_edit_to_its_code_reruns_its_stages(space: Workspace, tmp_path: Path) -> None:
    package = shutil.copytree(PACKAGE, tmp_path / "package")
    # Where the package lies does not matter.
    assert "Nothing to be done" in space.snakemake("--dry-run", *OVERLAYS, pythonpath=package).stdout
    game = package / "higher_card" / "game.py"
    game.write_text(f"# A comment.\n{game.read_text()}")
    assert "Nothing to be done" in space.snakemake("--dry-run", *OVERLAYS, pythonpath=package).stdout
    game.write_text(f"{game.read_text()}EDITED = True\n")
    planned = space.snakemake("--dry-run", *OVERLAYS, pythonpath=package).stdout
    assert {"base_model", "sft_data", "sft", "ppo", "cnn"} <= set(re.findall(r"^rule (\w+):", planned, re.MULTILINE))

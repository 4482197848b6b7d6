"""The archive as the workflow makes it: of a run of its own, rebuilt in another folder from what is packed."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from rl4vlm.archive.layout import WEIGHTS
from tests.archive.conftest import git
from tests.workflow.conftest import ROOT, Job, Workspace

pytestmark = pytest.mark.long

# All methods of one game. RL4VLM_WHOLE_SMOKE=1: the smoke workflow as it is.
ONE_GAME = {
    "tasks": ["NumberLine"],
    "ablations": {"lambda": {"NumberLine": [0.3]}},
    "base_model": {"defaults": {"source": "shipped"}},
}
OVERLAY = {} if os.environ.get("RL4VLM_WHOLE_SMOKE") else ONE_GAME
CONFIGS = ("--configfile", "config/smoke.yaml", "overlay.yaml")
METHODS = {"RL4VLM", "RL4VLM-noCoT", "RL4VLM over HTTP", "LLaVA-sft", "CNN+RL", "random", "solver"}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A git checkout of the workflow in which the archive was made from nothing."""
    made = Workspace(tmp_path_factory.mktemp("archived") / "clone")
    shutil.copy2(ROOT / ".gitignore", made.folder)
    (made.folder / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY))
    git(made.folder, "init", "--quiet", "--initial-branch", "main")
    git(made.folder, "add", "--all")
    git(made.folder, "commit", "--quiet", "--message", "all")
    done = made.snakemake("archive", *CONFIGS)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return made


@pytest.fixture(scope="module")
def unpacked(space: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere") / "paper"
    with zipfile.ZipFile(space.folder / "results" / "smoke" / "archive.zip") as archive:
        archive.extractall(folder)
    return folder


def test_a_reader_rebuilds_every_table_and_figure_byte_for_byte(unpacked: Path) -> None:
    (command,) = re.findall(r"^PYTHONPATH=code python .*$", (unpacked / "README.md").read_text(), flags=re.MULTILINE)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, shell=True, cwd=unpacked, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [file for kind in ("tables", "figures") for file in (unpacked / "results" / kind).iterdir()]
    rebuilt = [file for file in shown if not file.name.endswith("run.json")]
    assert f"{len(rebuilt)} files of tables and figures, rebuilt from the packed results, are the same" in done.stdout


def test_it_holds_every_method_and_no_weights(unpacked: Path) -> None:
    with (unpacked / "results" / "tables" / "main.csv").open(newline="") as file:
        made = {row["method"] for row in csv.DictReader(file) if row["source"] == "reproduced"}
    assert made >= METHODS
    kinds = {folder.name.partition("-")[0] for folder in (unpacked / "results" / "eval").iterdir()}
    assert kinds >= {"random", "solver", "sft", "ppo", "http", "cnn"}
    assert {file.name for folder in ("ppo", "cnn", "sft") for file in (unpacked / "results" / folder).rglob("*.jsonl")}
    assert [file.name for file in unpacked.rglob("*") if file.name.endswith(WEIGHTS)] == []


def test_the_packed_config_is_the_one_that_the_run_had(unpacked: Path) -> None:
    packed = yaml.safe_load((unpacked / "config.yaml").read_text())
    assert packed["results_dir"] == "results/smoke"
    assert packed["over_http"]["episodes"] == 2
    assert packed["tasks"] == OVERLAY.get("tasks", packed["tasks"])


def test_another_edit_or_commit_is_another_archive_and_nothing_else(space: Workspace) -> None:
    assert space.planned("archive", *CONFIGS) == []
    with space.appended("config/config.yaml", "# a comment"):
        assert space.planned("archive", *CONFIGS) == [Job("archive")]
    assert space.planned("archive", *CONFIGS) == []
    (space.folder / "NOTES").write_text("a note\n")
    git(space.folder, "add", "NOTES")
    git(space.folder, "commit", "--quiet", "--message", "a note")
    assert space.planned("archive", *CONFIGS) == [Job("archive")]

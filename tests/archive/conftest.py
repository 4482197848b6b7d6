"""A results folder with records, tables and figures, and a git checkout of this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rl4vlm.archive.pack import pack
from rl4vlm.figures.draw import draw
from rl4vlm.figures.style import FigureStyle
from rl4vlm.results.names import FIGURES
from rl4vlm.results.tables import build_tables
from tests.results.synthetic import make_results, write_json, write_lines

ROOT = Path(__file__).parents[2]
TASKS = ("NumberLine", "EZPoints")
CONFIG = {"tasks": list(TASKS), "scale": "embedded"}


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A Tester", "-c", "user.email=tester@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def add_record(folder: Path, stage: str, *inputs: str) -> None:
    """Add to a run's record its stage and the paths that it was made from."""
    found = {f"input{place}": {"path": path, "sha256": None} for place, path in enumerate(inputs)}
    file = folder / "run.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    write_json(file, {**before, "stage": stage, "inputs": found, "code": {"revision": "abc", "changed": False}})


def make_whole_results(root: Path) -> Path:
    """Write a results folder like the workflow's, with weights, a cache and the run of an earlier config."""
    results = root / "results"
    made = make_results(results, tasks=TASKS, lambdas=(0.3, 0.5), episodes=20, cnn=True)
    add_record(results / "base_model" / "cards", "base_model")
    for task in TASKS:
        for style in ("cot", "nocot"):
            data, tuned = results / "sft_data" / f"{task}-{style}", results / "sft" / f"{task}-{style}-seed1"
            add_record(data, "sft_data")
            write_json(data / "manifest.json", {"samples": 1})
            write_json(data / "data.json", {})
            add_record(tuned, "sft", f"results/sft_data/{task}-{style}", "results/base_model/cards")
            write_lines(tuned / "metrics.jsonl", [{"step": 1, "loss": 1.0}])
    for folder in made.training_runs:
        style = "nocot" if "nocot" in folder.name else "cot"
        start = [f"results/sft/{folder.name.split('-')[0]}-{style}-seed1/checkpoint"] if "lambda" in folder.name else []
        add_record(folder, folder.parent.name, *start)
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "model.safetensors").write_text("weights")
    for folder in made.evaluations:
        kind, _, run = folder.name.partition("-")
        trained = [f"results/{kind}/{run}/checkpoint"] if kind in ("ppo", "cnn", "sft") else []
        add_record(folder, "evaluation", *trained)
    build_tables(out=results / "tables", scale="embedded", **made.inputs)
    for name in FIGURES:
        draw(name, out=results / "figures" / name, scale="embedded", style=FigureStyle(dpi=40), **made.inputs)
    left = results / "ppo" / "EZPoints-cot-lambda0.9-seed7"
    write_lines(left / "metrics.jsonl", [{"update": 1}])
    add_record(left, "ppo")
    write_json(results / "api_cache" / "reply.json", {})
    return results


def make_checkout(folder: Path) -> Path:
    """Create a git checkout of this package without uncommitted changes."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "rl4vlm", folder / "rl4vlm", ignore=ignore)
    shutil.copy2(ROOT / ".gitignore", folder)
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "model.safetensors").write_bytes(b"weights of the repository")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder that tests share and must not change."""
    return make_whole_results(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that tests share and must not change."""
    return make_checkout(tmp_path_factory.mktemp("checkout") / "code")


@pytest.fixture(scope="session")
def packed(results: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of `results` and `checkout`."""
    out = tmp_path_factory.mktemp("packed") / "paper.zip"
    pack(results=results, out=out, code=checkout, config=CONFIG)
    return out


@pytest.fixture
def unpack(packed: Path, tmp_path: Path) -> Callable[[], Path]:
    """Returns a function that unpacks the archive into a folder that the test may change."""

    def unpacked() -> Path:
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(tmp_path / "paper")
        return tmp_path / "paper"

    return unpacked

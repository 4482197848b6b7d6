"""A changed, missing or added file is named, and tables and figures are rebuilt from the packed results."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from rl4vlm.archive.verify import read_sums, verify
from rl4vlm.cli import main

METRICS = "results/ppo/NumberLine-cot-lambda0.5-seed1/metrics.jsonl"


def flip(file: Path) -> None:
    """Change one bit of the middle byte."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def sign(folder: Path, name: str) -> None:
    """Update the manifest for a changed file."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    digest = sha256((folder / name).read_bytes()).hexdigest()
    changed = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in lines]
    (folder / "SHA256SUMS").write_text("".join(f"{line}\n" for line in changed))


@pytest.mark.system
def test_the_command_in_its_readme_rebuilds_everything_with_the_packed_code(unpack: Callable[[], Path]) -> None:
    folder = unpack()
    (command,) = re.findall(r"^PYTHONPATH=code python .*$", (folder / "README.md").read_text(), flags=re.MULTILINE)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True)
    assert done.returncode == 0, done
    count = len((folder / "SHA256SUMS").read_text().splitlines())
    assert f"all {count} files are as packed; 28 files of tables and figures".encode() in done.stdout
    # Verifying changed nothing.
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert not [path for path in (folder / "results").rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize(
    "name",
    [
        METRICS,
        "results/eval/solver-EZPoints/episodes.jsonl",
        "results/tables/main.csv",
        "results/figures/training_curves.png",
        "results/sft/NumberLine-cot-seed1/run.json",
        "code/rl4vlm/results/tables.py",
        "config.yaml",
    ],
)
def test_one_flipped_bit_is_named(unpack: Callable[[], Path], name: str) -> None:
    folder = unpack()
    flip(folder / name)
    verdict = verify(folder)
    assert [problem.partition(":")[0] for problem in verdict.problems] == [name]
    assert "changed (sha256 " in verdict.problems[0]
    assert verdict.rebuilt == 0


def test_a_missing_and_an_added_file_are_named(unpack: Callable[[], Path]) -> None:
    folder = unpack()
    (folder / METRICS).unlink()
    (folder / "results" / "eval" / "more.jsonl").touch()
    (folder / ".venv").mkdir()
    (folder / ".venv" / "anything").touch()
    assert verify(folder).problems == (f"{METRICS}: missing", "results/eval/more.jsonl: not in SHA256SUMS")


def test_a_changed_metric_is_found_even_if_the_manifest_agrees(unpack: Callable[[], Path]) -> None:
    folder = unpack()
    text = (folder / METRICS).read_text()
    (folder / METRICS).write_text(text.replace('"mean_return": 0.0', '"mean_return": 9.0', 1))
    sign(folder, METRICS)
    problems = verify(folder).problems
    name = METRICS.removeprefix("results/")
    assert any(problem.startswith(f"{name}: not the file that tables/run.json was made from") for problem in problems)
    assert all(name in problem for problem in problems)


def test_a_table_that_does_not_follow_from_the_metrics_is_named(unpack: Callable[[], Path]) -> None:
    folder = unpack()
    name = "results/tables/main.csv"
    text = (folder / name).read_text()
    assert "RL4VLM,NumberLine,reproduced,embedded,95.0," in text
    (folder / name).write_text(text.replace(",embedded,95.0,", ",embedded,99.0,", 1))
    sign(folder, name)
    verdict = verify(folder)
    assert verdict.problems == (f"{name}: the file rebuilt from the packed results differs",)
    assert verdict.rebuilt == 28


def test_the_command_prints_problems_and_fails(unpack: Callable[[], Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = unpack()
    flip(folder / METRICS)
    assert main(["verify-archive", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out.startswith(f"{METRICS}: changed")
    assert "1 problems" in said.err


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no unpacked archive: SHA256SUMS is missing"):
        verify(tmp_path)


@pytest.mark.parametrize("line", ["abc  file", f"{'0' * 64}  ../file", f"{'0' * 64}  /etc/passwd", "", f"{'0' * 64} a"])
def test_a_bad_line_of_the_manifest_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  good\n{line}\n")
    with pytest.raises(ValueError, match="SHA256SUMS, line 2"):
        read_sums(tmp_path / "SHA256SUMS")

"""The locks can be installed under every supported Python. Asks the package index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_locks import LOCKS, PYTHONS
from tests.test_project_files import ROOT

pytestmark = pytest.mark.long

# Packages without wheels. ALFWorld's planner and Jericho are compiled; the others are pure Python.
SOURCES = ("connection-pool", "docopt", "fast-downward-textworld", "jericho")


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("python", PYTHONS)
def test_all_but_a_few_have_a_wheel_with_a_locked_hash(python: str, lock: str, tmp_path: Path) -> None:
    only_wheels = ["--only-binary=:all:", *(f"--no-binary={name}" for name in SOURCES)]
    machine = [f"--python-version={python}", "--python-platform=x86_64-manylinux_2_28", f"--target={tmp_path}"]
    uv = str(Path(sys.executable).with_name("uv"))
    install = [uv, "pip", "install", "--dry-run", "--no-deps", "--require-hashes"]
    done = subprocess.run(
        [*install, *only_wheels, *machine, "-r", f"requirements/{lock}.txt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

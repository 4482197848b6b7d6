"""The parsers pass on inputs that are bred to reach new code. Needs atheris, which `make torture` installs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.guided import TARGETS
from tests.torture.records import budget, trial


@pytest.mark.parametrize("target", TARGETS)
def test_guided_by_coverage(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    runs = budget(short=3_000, long=1_000_000)
    with trial("Parsers", f"{target}: guided by coverage (atheris)") as tried:
        command = [sys.executable, "-m", "tests.torture.guided", target, str(runs), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            tried.failed("one of them", done.stdout + done.stderr[-3000:])
        else:
            tried.ended(times=runs)

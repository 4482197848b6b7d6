"""The fixture in which the stages of `tests/torture/stages.py` run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.stages import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), tiny_checkpoint)

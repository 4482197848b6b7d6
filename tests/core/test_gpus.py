"""GPUs are counted as CUDA would."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl4vlm.core.gpus import visible_gpus


def test_gpus_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(tmp_path) == 3
    for shown, count in {"": 0, "2": 1, "0, 3": 2, "GPU-8932f937,MIG-1": 2}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert visible_gpus(tmp_path) == count

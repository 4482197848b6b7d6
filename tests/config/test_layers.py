"""The parts of a config that Snakemake has merged."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rl4vlm.config.layers import config_layers

OWN: dict[str, Any] = {"a": {"x": 1}}
DROPS: dict[str, Any] = {"a": None}
SETS: dict[str, Any] = {"a": {"y": 2}}


@pytest.fixture
def workflow(tmp_path: Path) -> Any:
    """A workflow with a file of `configfile:`, one of `--configfile`, and values of `--config`."""
    (tmp_path / "own.yaml").write_text("a: {x: 1}")
    (tmp_path / "drops.yaml").write_text("a: null")
    given = [tmp_path / "drops.yaml"]
    return SimpleNamespace(
        configfiles=[*given, str(tmp_path / "own.yaml")],
        config_settings=SimpleNamespace(configfiles=given, config=SETS),
    )


def test_they_come_in_the_order_in_which_they_override_each_other(workflow: Any) -> None:
    assert config_layers({"a": {"y": 2}}, workflow) == [OWN, DROPS, SETS]


def test_a_config_that_is_not_its_parts_merged_stays_whole(workflow: Any) -> None:
    changed = {"a": {"y": 3}}
    assert config_layers(changed, workflow) == [changed]


def test_a_pipe_is_not_read_again(workflow: Any, tmp_path: Path) -> None:
    (tmp_path / "drops.yaml").unlink()
    os.mkfifo(tmp_path / "drops.yaml")
    config = {"a": {"y": 2}}
    assert config_layers(config, workflow) == [config]

"""The parts of a config that Snakemake has merged."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from snakemake.api import Workflow  # `snakemake.workflow` cannot be imported first
from snakemake.settings.types import ConfigSettings

from rl4vlm.config.layers import config_layers

OWN: dict[str, Any] = {"a": {"x": 1}}
DROPS: dict[str, Any] = {"a": None}
SETS: dict[str, Any] = {"a": {"y": 2}}


@pytest.fixture
def workflow(tmp_path: Path) -> Any:
    """Snakemake's workflow with a file of `configfile:`, one of `--configfile`, and values of `--config`."""
    (tmp_path / "own.yaml").write_text("a: {x: 1}")
    (tmp_path / "drops.yaml").write_text("a: null")
    given = ConfigSettings(config=SETS, configfiles=[tmp_path / "drops.yaml"])
    made = Mock(config_settings=given, configfiles=[*given.configfiles], config=deepcopy(given.overwrite_config))
    made.modifier.skip_configfile = False
    Workflow.configfile(made, str(tmp_path / "own.yaml"))  # Snakemake's own way to merge them
    return made


def test_they_come_in_the_order_in_which_they_override_each_other(workflow: Any) -> None:
    # Snakemake's own config has lost that a file drops `a`.
    assert workflow.config == {"a": {"x": 1, "y": 2}}
    assert config_layers(workflow.config, workflow) == [OWN, DROPS, SETS]


def test_a_config_that_is_not_its_parts_merged_stays_whole(workflow: Any) -> None:
    changed = {"a": {"y": 3}}
    assert config_layers(changed, workflow) == [changed]


def test_a_pipe_is_not_read_again(workflow: Any, tmp_path: Path) -> None:
    (tmp_path / "drops.yaml").unlink()
    os.mkfifo(tmp_path / "drops.yaml")
    assert config_layers(workflow.config, workflow) == [workflow.config]

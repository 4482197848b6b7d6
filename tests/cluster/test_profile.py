"""Checks of the SLURM profile that need no SLURM."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

from rl4vlm.config.launch import SHUTDOWN_SECONDS, granted
from rl4vlm.config.load import load_config
from tests.workflow.conftest import ROOT, Workspace

PROFILE = ROOT / "profiles" / "slurm"
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))


@pytest.mark.parametrize("overlay", CONFIGS, ids=lambda path: path.stem)
def test_every_stage_of_every_config_fits_a_partition(overlay: Path) -> None:
    partitions = read_partition_file(PROFILE / "partitions.yaml")
    asked = load_config([ROOT / "config" / "config.yaml", overlay])["resources"]
    for stage, amounts in asked.items():
        resources = {name: amount for name, amount in amounts.items() if name != "threads"}
        job = SimpleNamespace(name=stage, threads=amounts["threads"], resources=resources)
        found = get_best_partition(partitions, job, logging.getLogger())
        assert found == ("gpu" if amounts["gpu"] else "cpu"), stage


def test_a_training_on_two_nodes_asks_for_a_task_on_each() -> None:
    class Resources(dict[str, Any]):
        __getattr__ = dict.__getitem__

    asked = {"threads": 16, "mem_mb": 9, "runtime": 60, "gpu": 8, "processes": 8, "nodes": 2}
    resources = Resources(granted({"resources": {"ppo": asked}}, "ppo"))
    job = SimpleNamespace(name="ppo", threads=16, resources=resources)
    about = dict.fromkeys(("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir"), "")
    command = get_submit_command(job, about).split()
    assert {"--nodes=2", "--ntasks=2"} <= {*command}
    assert not [word for word in command if word.startswith("--ntasks-per")]
    assert get_best_partition(read_partition_file(PROFILE / "partitions.yaml"), job, logging.getLogger()) == "gpu"


def test_a_dry_run_uses_the_profile(tmp_path: Path) -> None:
    done = Workspace(tmp_path / "copy").snakemake("--dry-run", profile="profiles/slurm")
    assert done.returncode == 0, done.stdout + done.stderr
    asked = re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", done.stdout, flags=re.MULTILINE)
    early = f"slurm_extra=--signal=TERM@{SHUTDOWN_SECONDS}"
    assert {rule for rule, resources in asked if early in resources.split(", ")} == {"sft", "ppo"}
    assert len({rule for rule, _ in asked}) > 5


@pytest.mark.parametrize("overlay", CONFIGS, ids=lambda path: path.stem)
def test_time_limits_are_well_above_the_time_of_the_signal(overlay: Path) -> None:
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    resources = load_config([ROOT / "config" / "config.yaml", overlay])["resources"]
    for rule, asked in profile["set-resources"].items():
        (seconds,) = re.findall(r"--signal=TERM@(\d+)", asked["slurm_extra"])
        assert int(seconds) == SHUTDOWN_SECONDS
        assert 60 * resources[rule]["runtime"] >= 4 * int(seconds)
        validate_slurm_extra(SimpleNamespace(resources=SimpleNamespace(**asked)))


def test_every_setting_has_a_comment() -> None:
    lines = (PROFILE / "config.yaml").read_text().splitlines()
    settings = [index for index, line in enumerate(lines) if line and line[0] not in "# "]
    assert len(settings) >= 10
    for index in settings:
        # The two settings of the report share one comment.
        above = lines[index - 1]
        assert above.startswith(("# ", "report: ")), lines[index]

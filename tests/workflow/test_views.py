"""Pictures and reports of the workflow, as docs/sharing.md tells to make them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rl4vlm.rulepage.read import rule_links
from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.xdist_group("dag")


def test_the_rule_graph_names_every_rule_and_what_it_needs(workspace: Workspace) -> None:
    done = workspace.snakemake("--rulegraph")
    assert done.returncode == 0, done.stderr
    links = rule_links(done.stdout)
    assert {("sft", "shipped_model"), ("sft", "sft_data"), ("ppo", "sft"), ("evaluate_ppo", "ppo")} <= links
    assert {needed for rule, needed in links if rule == "all"} >= {"tables", "training_curves", "gallery"}


def test_the_graph_of_jobs_has_a_node_a_job(workspace: Workspace, tmp_path: Path) -> None:
    done = workspace.snakemake("--dag", "--configfile", "config/smoke.yaml")
    assert done.returncode == 0, done.stderr
    nodes = re.findall(r'\[label = "([^"]+)"', done.stdout)
    # And `all` itself.
    assert len(nodes) == len(workspace.planned("--configfile", "config/smoke.yaml")) + 1
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg", "-o", tmp_path / "jobs.svg"], input=done.stdout, text=True, check=True)
        assert (tmp_path / "jobs.svg").stat().st_size > 10_000


def test_a_report_in_parts_can_be_made_of_finished_results(finished: Workspace) -> None:
    done = finished.snakemake("--report", "parts.zip")
    assert done.returncode == 0, done.stderr
    assert (finished.folder / "parts.zip").stat().st_size > 100_000

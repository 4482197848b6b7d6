"""Graphs, reports and the page of the rules, made by the commands of docs/sharing.md and `make docs`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.workflow.conftest import ROOT, Workspace

pytestmark = pytest.mark.system


def links(mermaid: str) -> set[tuple[str, str]]:
    """Pairs (rule, rule that it needs) of a graph as `snakemake --rulegraph mermaid-js` prints it."""
    names = dict(re.findall(r"^\s*(id\d+)\[(\w+)\]$", mermaid, flags=re.MULTILINE))
    return {(names[rule], names[needed]) for needed, rule in re.findall(r"(id\d+) --> (id\d+)", mermaid)}


def test_the_page_of_the_rules_is_up_to_date(workspace: Workspace) -> None:
    """`make docs` writes it from these two commands. The order of the graph's lines differs from run to run."""
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    graph = workspace.snakemake("--forceall", "--rulegraph", "mermaid-js")
    rules = workspace.snakemake("--list")
    assert (graph.returncode, rules.returncode) == (0, 0), graph.stderr + rules.stderr
    assert links(page) == links(graph.stdout)
    assert {("sft", "shipped_model"), ("sft", "sft_data"), ("ppo", "sft"), ("evaluate_ppo", "ppo")} <= links(page)
    assert f"```\n{rules.stdout}```" in page, "docs/rules.md is out of date: make docs"


def test_the_graph_of_jobs_has_one_node_per_job(workspace: Workspace, tmp_path: Path) -> None:
    done = workspace.snakemake("--dag", "--configfile", "config/smoke.yaml")
    assert done.returncode == 0, done.stderr
    nodes = re.findall(r'\[label = "([^"]+)"', done.stdout)
    # One more for `all`.
    assert len(nodes) == len(workspace.planned("--configfile", "config/smoke.yaml")) + 1
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg", "-o", tmp_path / "jobs.svg"], input=done.stdout, text=True, check=True)
        assert (tmp_path / "jobs.svg").stat().st_size > 10_000


def test_a_report_in_parts_can_be_made_of_finished_results(finished: Workspace) -> None:
    done = finished.snakemake("--report", "parts.zip")
    assert done.returncode == 0, done.stderr
    assert (finished.folder / "parts.zip").stat().st_size > 100_000

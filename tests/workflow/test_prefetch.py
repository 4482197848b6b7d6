"""A base model by its hub name is fetched once, where Snakemake runs; everything else starts from the folder.

That it is no job of the cluster, and that the others need no network then, is in tests/cluster/.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.hub import COMMIT, NAME, Hub, serving
from tests.workflow.conftest import Job, Workspace

pytestmark = pytest.mark.system

HUB_NAME = ("--config", f"base_model={{'defaults': {{'source': '{NAME}', 'revision': '{COMMIT}'}}}}")
FOLDER = f"{NAME}@{COMMIT}".replace("/", "--")


def test_prefetch_downloads_the_model_that_the_others_start_from(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Workspace(tmp_path / "copy")
    with serving(Hub(tiny_checkpoint)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        done = space.snakemake("prefetch", *HUB_NAME, profile="profiles/default")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (space.folder / "results" / "base_model" / FOLDER / "config.json").is_file()
    assert not (space.folder / "results" / "report.html").exists()

    plan = space.snakemake("--dry-run", "-p", *HUB_NAME)
    assert "rule download:" not in plan.stdout
    assert f"--init results/base_model/{FOLDER} " in plan.stdout


def test_a_revision_is_part_of_the_command(workspace: Workspace) -> None:
    done = workspace.snakemake("--dry-run", "-p", *HUB_NAME)
    assert f"rl4vlm base-model --out results/base_model/{FOLDER} --download {NAME} --revision {COMMIT}" in done.stdout


def test_without_a_revision_it_is_the_newest(workspace: Workspace) -> None:
    done = workspace.snakemake("--dry-run", "-p", "--config", f"base_model={{'defaults': {{'source': '{NAME}'}}}}")
    folder = NAME.replace("/", "--")
    assert f"rl4vlm base-model --out results/base_model/{folder} --download {NAME} 2>&1 | tee" in " ".join(
        done.stdout.split()
    )


def test_a_folder_is_used_where_it_is(workspace: Workspace) -> None:
    (workspace.folder / "my_model").mkdir(exist_ok=True)
    (workspace.folder / "my_model" / "config.json").write_text("{}")
    jobs = workspace.planned("--config", "base_model={'defaults': {'source': 'my_model'}}")
    assert {job.rule for job in jobs}.isdisjoint({"download", "base_model", "shipped_model"})
    assert Job("sft", "task=NumberLine, style=cot, seed=1") in jobs

"""The workflow used as a module from another folder, and the files that the workflow catalog asks for."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import ROOT, Job, Workspace

CATALOG = ROOT / ".snakemake-workflow-catalog.yml"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A folder with a config, and the Snakefile of docs/sharing.md that uses the workflow of a clone."""
    clone = Workspace(tmp_path_factory.mktemp("clone"))
    space = Workspace(tmp_path_factory.mktemp("elsewhere"))
    for name in ("workflow", "profiles", "Snakefile"):
        path = space.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (text,) = re.findall(r"```\n(configfile:.*?)```", (ROOT / "docs" / "sharing.md").read_text(), flags=re.DOTALL)
    (space.folder / "Snakefile").write_text(text.replace("/path/to/clone", str(clone.folder)))
    return space


def test_it_has_the_same_jobs_there_as_here(elsewhere: Workspace, workspace: Workspace) -> None:
    there = [Job(job.rule, job.wildcards) for job in elsewhere.planned()]
    assert there == workspace.planned()


def test_the_ready_weights_are_found_there(elsewhere: Workspace) -> None:
    done = elsewhere.snakemake("results/base_model/cards", "--dry-run", "-p")
    (source,) = re.findall(r"--copy (\S+)", done.stdout)
    assert (elsewhere.folder / source / "model.safetensors").is_file()


def test_the_catalogs_files_are_there() -> None:
    usage = yaml.safe_load(CATALOG.read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["software-stack-deployment"]) == {"conda", "apptainer", "apptainer+conda", "report"}
    assert (ROOT / "workflow" / "Snakefile").is_file()
    assert all(path.suffix == ".smk" for path in (ROOT / "workflow" / "rules").iterdir())
    assert {"snakemake", "workflow"} <= set(re.findall(r"\w+", (ROOT / "README.md").read_text().lower()))


def test_conda_is_promised_only_if_rules_name_environments() -> None:
    named = any(re.search(r"^ +conda:", path.read_text(), re.MULTILINE) for path in (ROOT / "workflow").rglob("*.smk"))
    assert yaml.safe_load(CATALOG.read_text())["usage"]["software-stack-deployment"]["conda"] is named


def test_the_configs_page_has_every_key_and_file() -> None:
    page = (ROOT / "config" / "README.md").read_text()
    keys = {key for path in (ROOT / "config").glob("*.yaml") for key in yaml.safe_load(path.read_text())}
    assert {key for key in keys if f"`{key}`" not in page} == set()
    files = [path.relative_to(ROOT / "config") for path in (ROOT / "config").rglob("*.yaml")]
    assert [str(file) for file in files if f"`{file}`" not in page] == []


def test_the_links_of_the_configs_page_lead_somewhere() -> None:
    page = ROOT / "config" / "README.md"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert Path(page.parent, link).exists(), link

"""The workflow used as a module from another folder, and the files that the workflow catalog asks for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

from tests.archive.conftest import git
from tests.workflow.conftest import ROOT, Job, Workspace

CATALOG = ROOT / ".snakemake-workflow-catalog.yml"
# What `snakedeploy deploy-workflow` 0.17.1 writes beside the config, but for the comments.
DEPLOYED = """\
from snakemake.utils import min_version

min_version("6.10.0")

configfile: "config/config.yaml"

module rl4vlm:
    snakefile:
        github("an-owner/rl4vlm", path="workflow/Snakefile", tag="v0.1.0")
    config:
        config

use rule * from rl4vlm
"""


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


@pytest.mark.long
def test_by_its_address_it_runs_with_the_weights_that_the_package_brings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GitHub is a folder here: git takes its addresses for that.
    hub, prefix, folder = tmp_path / "hub", tmp_path / "venv", tmp_path / "deployed"
    repository = Workspace(hub / "an-owner" / "rl4vlm").folder
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, repository)
    git(repository, "init", "--quiet", "--initial-branch", "main")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "all")
    git(repository, "tag", "v0.1.0")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{hub}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # The packages of this environment, and the project's installed beside them.
    venv.create(prefix, with_pip=False, symlinks=True)
    python = prefix / "bin" / "python"
    (site,) = (prefix / "lib").glob("python*/site-packages")
    (site / "outer.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--force-reinstall"]
    install += ["git+https://github.com/an-owner/rl4vlm@v0.1.0"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(install, check=True, env=environment)

    (folder / "workflow").mkdir(parents=True)
    (folder / "workflow" / "Snakefile").write_text(DEPLOYED)
    for name in ("config", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    command = [str(python), "-m", "snakemake", "--cores", "1", "--until", "shipped_model"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = sorted((folder / "results" / "base_model").glob("*/model.safetensors"))
    shipped = ROOT / "workflow" / "resources" / "base_model"
    assert made
    assert [file.read_bytes() for file in made] == [
        (shipped / file.parent.name / file.name).read_bytes() for file in made
    ]


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


def test_every_key_and_file_of_the_config_is_explained() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    scales = [*(ROOT / "config").glob("*.yaml"), *(ROOT / "config" / "scales").glob("*.yaml")]
    keys = {key for path in scales for key in yaml.safe_load(path.read_text())}
    assert {key for key in keys if f"`{key}`" not in page} == set()
    page = (ROOT / "config" / "README.md").read_text()
    files = [path.relative_to(ROOT / "config") for path in (ROOT / "config").rglob("*.yaml")]
    assert [str(file) for file in files if f"`{file}`" not in page] == []


def test_the_links_of_the_configs_page_lead_somewhere() -> None:
    page = ROOT / "config" / "README.md"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert Path(page.parent, link).exists(), link

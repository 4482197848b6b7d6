"""Make targets, names and links are what README, CI and the other documents say they are."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run_make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        # Not what a `make test` around this one hands down.
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "PYTHON"},
        capture_output=True,
        text=True,
        check=False,
    )


def make_would_run(*arguments: str) -> list[str]:
    """The commands that `make` prints for these arguments without running them."""
    done = run_make("--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("reproduce", ".venv/bin/snakemake --cores all"),
        ("smoke", ".venv/bin/snakemake --cores all --configfile config/smoke.yaml"),
    ],
)
def test_make_targets_are_the_documented_commands(target: str, command: str) -> None:
    assert make_would_run("--assume-old", ".venv/.installed-cpu", target) == [command]


def test_the_image_has_one_name_and_the_projects_version() -> None:
    tag = f"rl4vlm:{PROJECT['version']}"
    image = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["container"]
    for name in ("README.md", "Dockerfile"):
        text = (ROOT / name).read_text()
        assert set(re.findall(r"docker build -t (\S+?)[`\s]", text)) == {tag}, name
        assert set(re.findall(r"apptainer build (\S+) docker-daemon://(\S+?)[`\s]", text)) == {(image, tag)}, name


def test_readme_has_a_place_for_the_table() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("<!-- results-table -->") == text.count("<!-- /results-table -->") == 1


def test_links_between_documents_lead_somewhere() -> None:
    dead = []
    for document in [ROOT / "README.md", ROOT / "results" / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            if not (document.parent / link).exists():
                dead.append(f"{document.relative_to(ROOT)}: {link}")
    assert dead == []


def test_tests_named_in_the_fidelity_page_exist() -> None:
    page = (ROOT / "docs" / "fidelity.md").read_text()
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(?:…::)?(\w+))?", page):
        assert (ROOT / file).is_file(), file
        assert f"def {name}" in (ROOT / file).read_text() or not name, f"{file}::{name}"

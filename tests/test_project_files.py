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
        ("seeds", ".venv/bin/snakemake --cores all --configfile config/seeds.yaml"),
        ("smoke", ".venv/bin/snakemake --cores all --configfile config/smoke.yaml"),
        ("docs-site", ".venv/bin/mkdocs build --strict --quiet"),
    ],
)
def test_make_targets_are_the_documented_commands(target: str, command: str) -> None:
    assert make_would_run("--assume-old", ".venv/.installed-cpu", target) == [command]


def test_the_image_has_one_name_and_the_projects_version() -> None:
    tag = f"rl4vlm:{PROJECT['version']}"
    image = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())["container"]
    for name in ("docs/install.md", "Dockerfile"):
        text = (ROOT / name).read_text()
        assert set(re.findall(r"docker build -t (\S+?)[`\s]", text)) == {tag}, name
        assert set(re.findall(r"apptainer build (\S+) docker-daemon://(\S+?)[`\s]", text)) == {(image, tag)}, name


def test_readme_has_a_place_for_the_table() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("<!-- results-table -->") == text.count("<!-- /results-table -->") == 1


DOCUMENTS = [
    *(
        ROOT / name
        for name in (
            *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
            *("config/README.md", "results/README.md"),
        )
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def anchors(document: Path) -> set[str]:
    """The addresses of a page's headings, as code hosts and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_links_between_documents_lead_somewhere() -> None:
    dead = []
    for document in DOCUMENTS:
        for link, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text()):
            target = document.parent / link if link else document
            if not target.exists() or (anchor and anchor not in anchors(target)):
                dead.append(f"{document.relative_to(ROOT)}: {link}{'#' + anchor if anchor else ''}")
    assert dead == []


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    unlisted = {page for page in pages if not page.startswith("assets/") and f"]({page})" not in index}
    assert unlisted == {"index.md"}


def test_the_site_has_every_page() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not page.startswith("assets/") and page not in site} == set()


def test_tests_named_in_the_fidelity_page_exist() -> None:
    page = (ROOT / "docs" / "fidelity.md").read_text()
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(?:…::)?(\w+))?", page):
        assert (ROOT / file).is_file(), file
        assert f"def {name}" in (ROOT / file).read_text() or not name, f"{file}::{name}"

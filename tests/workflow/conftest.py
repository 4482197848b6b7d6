"""A copy of the workflow that tests can edit, with made-up results that Snakemake takes for real ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from filecmp import cmpfiles
from functools import cache
from pathlib import Path

import pytest

import rl4vlm
from tests.launch import ROOT, run_forked
from tests.workflow.forked import run_snakemake

COPIED = ("Snakefile", "workflow", "config", "profiles", "rl4vlm")
FOLDER_OUTPUTS = re.compile(r".*(/base_model/[^/]+|/checkpoint|/sft_data/[^/]+|/alfworld_games)")


@dataclass(frozen=True, order=True)
class Job:
    """A job of a dry run: its rule, and its wildcards as Snakemake prints them, e.g. `task=NumberLine, style=cot`."""

    rule: str
    wildcards: str = ""


def jobs_of(shown: str) -> list[Job]:
    """The jobs in the output of a dry run, without `all`."""
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", shown, flags=re.MULTILINE)
    jobs = []
    for rule, details in blocks:
        wildcards = re.search(r"^ {4}wildcards: (.*)$", details, flags=re.MULTILINE)
        # The method itself and the first set of games have empty names.
        jobs.append(Job(rule, re.sub(r", (variant|games)=(?=,|$)", "", wildcards[1]) if wildcards else ""))
    return sorted(job for job in jobs if job.rule != "all")


class Workspace:
    """A copy of the project's workflow in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, folder / name)

    def snakemake(
        self, *arguments: str, profile: str = "none", pythonpath: Path | None = None, fork_jobs: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake in this folder, with this copy of the package; without a profile by default.

        Args:
            arguments: words of the command line.
            profile: folder of the workflow profile.
            pythonpath: a folder of further packages.
            fork_jobs: start no interpreter for the jobs, either (`tests.workflow.forked`).
        """
        path = [str(item) for item in (self.folder, pythonpath) if item]
        return run_forked(
            run_snakemake,
            ["--cores", "1", *arguments, "--workflow-profile", profile],
            path if pythonpath or self.is_edited() else [],
            fork_jobs,
            cwd=self.folder,
            environment={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )

    def is_edited(self) -> bool:
        """Whether this copy of the package differs from the one that was imported here."""
        package = Path(rl4vlm.__file__).parent
        folders = (package, self.folder / "rl4vlm")
        files = {
            file.relative_to(folder)
            for folder in folders
            for file in folder.rglob("*")
            if file.is_file() and file.suffix != ".pyc"
        }
        return len(cmpfiles(*folders, map(str, files))[0]) < len(files)

    def planned(self, *arguments: str) -> list[Job]:
        """The jobs that a dry run lists, without `all`."""
        done = self.snakemake("--dry-run", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return jobs_of(done.stdout)

    def pretend_finished(self, *arguments: str) -> None:
        """Write a line of text into every output, and let Snakemake record all outputs as made.

        `arguments` are further words of Snakemake's command line.
        """
        summary = self.snakemake("--summary", *arguments)
        assert summary.returncode == 0, summary.stderr
        for line in summary.stdout.splitlines()[1:]:
            output = self.folder / line.split("\t")[0]
            if FOLDER_OUTPUTS.fullmatch(output.as_posix()):
                output = output / "content"
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(f"{line}\n")
        touched = self.snakemake("--touch", "--forceall", *arguments)
        assert touched.returncode == 0, touched.stderr

    @contextmanager
    def edited(self, name: str, old: str, new: str) -> Iterator[None]:
        """Replace `old`, which the file must hold exactly once, by `new` inside a `with` block."""
        file = self.folder / name
        text = file.read_text()
        assert text.count(old) == 1, f"{name} holds {old!r} {text.count(old)} times"
        file.write_text(text.replace(old, new))
        try:
            yield
        finally:
            file.write_text(text)

    @contextmanager
    def appended(self, name: str, line: str = "EDITED = True") -> Iterator[None]:
        """Append a line to a file inside a `with` block: by default a statement, which changes the code of a module."""
        file = self.folder / name
        text = file.read_text()
        file.write_text(f"{text}{line}\n")
        try:
            yield
        finally:
            file.write_text(text)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy in which nothing has run yet."""
    return Workspace(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def plan(workspace: Workspace) -> Callable[..., str]:
    """The output of a dry run with these arguments, with commands. Cached by the arguments."""

    @cache
    def planned(*words: str) -> str:
        done = workspace.snakemake("--dry-run", "-p", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return planned


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy in which everything seems to have run."""
    space = Workspace(tmp_path_factory.mktemp("finished"))
    space.pretend_finished()
    return space

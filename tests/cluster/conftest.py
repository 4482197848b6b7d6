"""A SLURM cluster for the tests, and a copy of the project that submits its workflow to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.slurm import CannotRun, Cluster, install, running_cluster
from tests.workflow.conftest import Workspace

# The shipped profile, with faster status checks because these jobs last seconds.
PROFILE = ("--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "3")
PACE = ("--seconds-between-status-checks", "3", "--latency-wait", "10")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM cluster for all tests of this folder."""
    try:
        install()
        with running_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
            yield running
    except CannotRun as reason:
        pytest.skip(str(reason))


class Submission:
    """A Snakemake process that runs in a copy of the project and writes its output to a file."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    def output(self) -> str:
        return self._output.read_text()

    def failed(self) -> bool:
        return self.process.poll() not in (None, 0)

    def finish(self, seconds: float) -> None:
        """Wait for the process to end; it must succeed."""
        code = self.process.wait(seconds)
        assert code == 0, self.output()[-6000:]


def configured(space: Workspace, overlay: dict[str, Any] | None) -> list[str]:
    """Arguments for the smoke config with an overlay, which is written into the copy."""
    configs = ["config/smoke.yaml"]
    if overlay:
        (space.folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
        configs.append("overlay.yaml")
    return ["--configfile", *configs]


@contextmanager
def submitted(
    space: Workspace, cluster: Cluster, *arguments: str, overlay: dict[str, Any] | None = None
) -> Iterator[Submission]:
    """Submit the smoke workflow to the cluster with the shipped profile. Stops Snakemake when the block ends."""
    words = [sys.executable, "-m", "snakemake", *PROFILE, *PACE, *arguments, *configured(space, overlay)]
    output = space.folder / "snakemake.log"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            words,
            cwd=space.folder,
            env={**cluster.environment, "PYTHONPATH": os.fspath(space.folder), "OMP_NUM_THREADS": "1"},
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Submission(process, output)
        finally:
            if process.poll() is None:
                # On SIGINT, Snakemake cancels its jobs.
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

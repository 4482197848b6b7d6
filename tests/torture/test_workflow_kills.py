"""The smoke workflow, killed again and again and continued each time, gives what an undisturbed run gives."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rl4vlm.core.files import sha256_of
from tests.torture.records import budget, trial
from tests.workflow.conftest import Workspace
from tests.workflow.test_archive import ONE_GAME

KILLS = budget(short=5, long=50)
WHOLE = KILLS >= 50
"""Whether the whole smoke workflow runs; with fewer kills it is one game without pre-training."""
CONFIGS = ("--configfile", "config/smoke.yaml", "overlay.yaml")
# A killed snakemake leaves its lock. Nothing else runs in the folder, and without locks no `--unlock` is needed, which
# takes seconds.
RUN = ("--cores", "2", "--nolock", *CONFIGS)
COMPARED = (".csv", ".jsonl", ".md", ".pdf", ".png", ".safetensors", ".tex")
TIMED = ("timing.jsonl", "page.md")
"""Files with times in them, which differ between runs."""


@pytest.mark.long
def test_kills_over_the_workflow(tmp_path: Path) -> None:
    spaces = {name: Workspace(tmp_path / name) for name in ("undisturbed", "killed")}
    for space in spaces.values():
        (space.folder / "overlay.yaml").write_text(yaml.safe_dump({} if WHOLE else ONE_GAME))
    begun = time.monotonic()
    whole = start(spaces["undisturbed"])
    assert whole.wait() == 0, log(spaces["undisturbed"])
    seconds = time.monotonic() - begun
    what = "the smoke workflow" if WHOLE else "the smoke workflow of one game"
    with trial("Kills", f"{what}, killed at random moments of one run and continued each time") as tried:
        for name in kill_until_done(spaces["killed"], random.Random(1), most=2 * seconds / KILLS):
            tried.ended(name)
        results = [space.folder / "results" / "smoke" for space in spaces.values()]
        undisturbed, killed = map(contents, results)
        assert killed.keys() == undisturbed.keys(), sorted(killed.keys() ^ undisturbed.keys())
        assert killed == undisturbed, [name for name in killed if killed[name] != undisturbed[name]]
        words = ["check-results", "--config", *CONFIGS[1:]]
        command = [sys.executable, "-c", "import sys; from rl4vlm.cli import main; sys.exit(main())", *words]
        done = subprocess.run(command, cwd=spaces["killed"].folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        tried.ended("in the end check-results passed, and every table, curve, episode and weight was the same")


def start(space: Workspace) -> subprocess.Popen[bytes]:
    """Start the workflow in a process group of its own."""
    with (space.folder / "log").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *RUN],
            cwd=space.folder,
            env={**os.environ, "PYTHONPATH": str(space.folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def log(space: Workspace) -> str:
    return (space.folder / "log").read_text(errors="replace")


def kill_until_done(space: Workspace, moments: random.Random, most: float) -> list[str]:
    """Run the workflow to its end. It is killed up to `KILLS` times, each within `most` seconds of its first job.

    Returns how each kill was done.
    """
    kills: list[str] = []
    while True:
        running = start(space)
        while running.poll() is None and "Execute" not in log(space):
            time.sleep(0.1)
        try:
            code = running.wait(moments.uniform(0, most) if len(kills) < KILLS else None)
        except subprocess.TimeoutExpired:
            kills.append(kill(running, moments))
            continue
        assert code == 0, log(space)[-5000:]
        return kills


def kill(running: subprocess.Popen[bytes], moments: random.Random) -> str:
    """Kill a workflow in one of three ways. Returns which."""
    way = moments.randrange(3)
    if way == 0:
        running.kill()  # its jobs notice, save their states and end
    else:
        os.killpg(running.pid, signal.SIGTERM if way == 1 else signal.SIGKILL)
    try:
        running.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    return ("SIGKILL of snakemake alone", "SIGTERM of all its processes", "SIGKILL of all its processes")[way]


def contents(results: Path) -> dict[str, str | None]:
    """All files below a results folder but logs, benchmarks and cached replies, by name; of results, with checksums."""
    found = {}
    for path in results.rglob("*"):
        name = path.relative_to(results).as_posix()
        if path.is_file() and not name.startswith(("logs/", "benchmarks/", "api_cache/")):
            compared = path.suffix in COMPARED and path.name not in TIMED
            found[name] = sha256_of(path) if compared else None
    return found

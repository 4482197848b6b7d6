"""Every stage is killed, meets a full disk, and is started twice: the next run gives the undisturbed result, and
nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.torture.records import budget, trial
from tests.torture.stages import STAGES, Bench

pytestmark = pytest.mark.system


@pytest.mark.parametrize("stage", STAGES)
def test_killed_stages(stage: str, bench: Bench) -> None:
    moments = random.Random(stage)
    with trial("Kills", f"{stage}: SIGKILL or SIGTERM at a random moment, then the same command again") as tried:
        for _ in range(budget(short=1, long=50)):
            tried.attempt(kill, bench, stage, moments)


def kill(bench: Bench, stage: str, moments: random.Random) -> str:
    number = moments.choice((signal.SIGKILL, signal.SIGTERM))
    replaces, part = moments.random() < 0.5, moments.random()
    seconds = bench.undisturbed(stage)[1]
    bench.put_result(stage) if replaces else bench.clear()
    running = bench.start(stage)
    running.process.join(part * seconds)
    if running.process.exitcode is None and running.process.pid is not None:
        os.kill(running.process.pid, number)
    code, printed = running.end()
    # 128 + 15 is a training that got SIGTERM and saved its state.
    assert code in (0, -number, 128 + number), printed
    if replaces:
        bench.check_whole(stage, hidden=True)
    if code != 0:
        code_again, printed = bench.start(stage).end()
        assert code_again == 0, printed
    bench.check_whole(stage)
    return "had ended before" if code == 0 else f"{number.name}: the same result, no draft left"


@pytest.mark.parametrize("stage", STAGES)
def test_full_disk(stage: str, bench: Bench) -> None:
    """A limit on the size of files stands in for a full disk: it fails writes in the same way, and needs no root."""
    sizes = random.Random(stage)
    biggest = max(file.stat().st_size for file in (bench.undisturbed(stage)[0] / "out").rglob("*"))
    with trial("Full disk", f"{stage}: no file may grow beyond a random size (EFBIG)") as tried:
        for _ in range(budget(short=1, long=20)):
            bench.put_result(stage)
            tried.attempt(fill, bench, stage, sizes.randrange(biggest))


def fill(bench: Bench, stage: str, most_bytes: int | None) -> str:
    code, printed = bench.start(stage, most_bytes).end()
    bench.check_whole(stage, hidden=True)
    if code == 0:
        return "had room enough"
    assert code == 3, (code, printed)
    assert "Traceback" not in printed, printed
    assert str(bench.work) in printed.splitlines()[-1], printed
    return "ended with code 3 and the name of a file; the result before it stayed"


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("stage", STAGES)
def test_full_file_system(stage: str, bench: Bench) -> None:
    rooms = random.Random(stage)
    with trial("Full disk", f"{stage}: random room on the file system (ENOSPC), then enough") as tried:
        for _ in range(budget(short=1, long=20)):
            tried.attempt(fill_file_system, bench, stage, rooms.random())


def fill_file_system(bench: Bench, stage: str, part: float) -> str:
    result = sum(file.stat().st_size for file in bench.undisturbed(stage)[0].rglob("*"))
    bench.clear()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", bench.work], check=True)
    try:
        bench.put_result(stage)
        disk = os.statvfs(bench.work)
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        resize(bench.work, used + int(2 * part * result))
        outcome = fill(bench, stage, None)
        resize(bench.work, 1 << 30)
        code, printed = bench.start(stage).end()
        assert code == 0, printed
        bench.check_whole(stage)
    finally:
        subprocess.run(["umount", bench.work], check=True)
    return outcome


def resize(folder: Path, size: int) -> None:
    """Give the file system that is mounted at a folder another size in bytes."""
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


@pytest.mark.parametrize("stage", STAGES)
def test_two_at_once(stage: str, bench: Bench) -> None:
    with trial("Two at once", f"{stage}: the same command while it runs") as tried:
        for _ in range(budget(short=1, long=10)):
            tried.attempt(start_twice, bench, stage)


def is_locked(folder: Path) -> bool:
    """Whether a lock below the folder names its holder."""
    for parent, _, names in os.walk(folder):  # unlike `rglob`, it ignores folders that vanish meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                if name.endswith("lock") and Path(parent, name).stat().st_size:
                    return True
    return False


def start_twice(bench: Bench, stage: str) -> str:
    bench.put_result(stage)
    first = bench.start(stage)
    pid = first.process.pid
    assert pid is not None
    while first.process.exitcode is None and not is_locked(bench.work):
        time.sleep(0.001)
    if first.process.exitcode is None:
        os.kill(pid, signal.SIGSTOP)  # so that it holds its lock until the second one has ended
    code, printed = bench.start(stage).end()
    bench.check_whole(stage, hidden=True)
    if first.process.exitcode is None:
        os.kill(pid, signal.SIGCONT)
    first_code, first_printed = first.end()
    assert first_code == 0, first_printed
    bench.check_whole(stage)
    if code == 0:
        return "came after it"
    assert code == 2, printed
    assert f"process {pid} on" in printed, printed
    assert "is at work on" in printed.splitlines()[-1], printed
    return "was refused, and named the process at work"

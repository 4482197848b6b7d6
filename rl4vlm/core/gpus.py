"""Which GPUs a process may use, and locks that give each job GPUs of its own. Loads no model library.

`python -m rl4vlm.core.gpus COUNT COMMAND...` runs a command on GPUs that no other job has.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import IO

VISIBLE = "CUDA_VISIBLE_DEVICES"
CLAIMED = "RL4VLM_CLAIMED_GPUS"
"""Variable that this command sets to the GPUs that it claimed, the same value as `VISIBLE`. The command that replaces
it, and its children, see by it that they need not claim any."""


def shown_gpus(devices: Path = Path("/dev")) -> list[str]:
    """Names of the NVIDIA GPUs that a process may use: those of `CUDA_VISIBLE_DEVICES`, or all that `/dev` has."""
    shown = os.environ.get(VISIBLE)
    if shown is not None:
        # CUDA stops at an invalid index; -1 is what people write to hide all GPUs.
        return [*takewhile("-1".__ne__, (part.strip() for part in shown.split(",") if part.strip()))]
    return [str(index) for index in range(len(list(devices.glob("nvidia[0-9]*"))))]


def claimed_before() -> bool:
    """Whether the visible GPUs are already claimed for this process, by the command that it was started through."""
    return bool(shown := os.environ.get(VISIBLE)) and shown == os.environ.get(CLAIMED)


def claim_gpus(names: Sequence[str], count: int = 1) -> dict[int, IO[str]]:
    """Claim `count` of the GPUs with these names; if too few are free, wait until other jobs end.

    A claim lasts until its lock file is closed, at the latest until this process ends. It outlives `exec` if the file
    is inheritable.

    Returns:
        Lock files to keep open, by the index of their GPU among `names`.

    Raises:
        ValueError: `names` has fewer than `count` GPUs.
    """
    if count > len(names):
        raise ValueError(f"{count} GPUs are asked for, but there are {len(names)}")
    # SLURM assigns GPUs itself, and may number those of each job from 0: two jobs may use the same name.
    job = os.environ.get("SLURM_JOB_ID", "")
    folder = Path(tempfile.gettempdir(), f"rl4vlm-gpus-{os.getuid()}-{job}")
    folder.mkdir(exist_ok=True)
    claimed: dict[int, IO[str]] = {}
    waiting = False
    # Only one process collects GPUs at a time: two that need several could each hold what the other waits for.
    with (folder / "turn").open("a") as turn:
        while True:
            for index, name in enumerate(names if _lock(turn) else ()):
                if len(claimed) < count and index not in claimed:
                    file = (folder / f"{name.replace('/', '_')}.lock").open("a")
                    if _lock(file):
                        claimed[index] = file
                    else:
                        file.close()
            if len(claimed) == count:
                return claimed
            if not waiting:
                used = f"other rl4vlm processes use too many of the {len(names)} GPUs"
                print(f"{used}: waiting for {count} (device=cuda shares the first)", file=sys.stderr, flush=True)
                waiting = True
            time.sleep(1)


def _lock(file: IO[str]) -> bool:
    """Lock a file unless another process has. The system unlocks it when its last user ends, even by a kill."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def main(count: str, *command: str) -> None:
    """Replace this process by `command`, which sees only `count` GPUs that no other job has.

    On a machine without GPUs none is claimed.
    """
    if names := shown_gpus():
        try:
            claimed = claim_gpus(names, int(count))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        for file in claimed.values():
            os.set_inheritable(file.fileno(), True)
        os.environ[VISIBLE] = os.environ[CLAIMED] = ",".join(names[index] for index in sorted(claimed))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])

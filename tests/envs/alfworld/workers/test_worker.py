"""Worker processes: none outlives its parent, and there must be at least one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from rl4vlm.envs.alfworld.games import GameData
from rl4vlm.envs.alfworld.types import TaskType
from rl4vlm.envs.alfworld.workers.engine_pool import EnginePool
from rl4vlm.envs.alfworld.workers.solvers import Solvers
from tests.envs.alfworld.workers.pids import wait_until_gone


def test_a_killed_parent_leaves_no_worker(by_type: dict[TaskType, GameData]) -> None:
    program = (
        "import os, signal, sys\nfrom rl4vlm.envs.alfworld.workers.engine_pool import EnginePool\n"
        "pool = EnginePool(processes=1)\npool.game().start(sys.argv[1])\n"
        "from rl4vlm.envs.alfworld.workers.fork_server import ForkServer\n"
        "print(*pool.pids, ForkServer.of_this_process().pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [sys.executable, "-c", program, str(by_type[TaskType.PICK].file)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    assert wait_until_gone(pids)


@pytest.mark.parametrize("processes", [0, -1])
def test_fewer_than_one_process_is_refused(processes: int) -> None:
    with pytest.raises(ValueError, match=f"processes {processes} is less than 1"):
        EnginePool(processes)
    with pytest.raises(ValueError, match=f"processes {processes} is less than 1"):
        Solvers(processes)

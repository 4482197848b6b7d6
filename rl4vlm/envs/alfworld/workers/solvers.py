"""Worker processes that plan: walkthroughs for many games at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait

from rl4vlm.core.progress import progress
from rl4vlm.envs.alfworld.games import GameData
from rl4vlm.envs.alfworld.workers.process import Worker, checked_processes, stop_all
from rl4vlm.envs.alfworld.workers.protocol import EngineCrash, Request


class Solvers:
    """Worker processes that plan. Call it with games; use it as a context manager."""

    def __init__(self, processes: int | None = None) -> None:
        """`processes`: how many, by default as many as this process may use cores. Raises ValueError below one."""
        self._processes = checked_processes(processes)
        self._workers: list[Worker] = []

    def __enter__(self) -> Solvers:
        self._workers = [Worker() for _ in range(self._processes)]
        return self

    def __exit__(self, *_: object) -> None:
        stop_all(self._workers)

    def __call__(self, games: Sequence[GameData]) -> list[tuple[str, ...] | None]:
        """Each game's walkthrough, found by the planner and played to its end; None where there is none.

        Raises:
            ValueError: a game cannot be translated; its file is named.
            EngineCrash: a worker died of a game, which is named.
        """
        requests = [Request(0, "solve", (game,)) for game in games]
        waiting, at_work, idle = deque(requests), dict[Connection, tuple[Worker, Request]](), list(self._workers)
        with progress(len(requests), "ALFWorld games solved", unit="game") as bar:
            while waiting or at_work:
                while waiting and idle:
                    worker, request = idle.pop(), waiting.popleft()
                    worker.send(request)
                    at_work[worker.connection] = (worker, request)
                for ready in wait(list(at_work)):
                    assert isinstance(ready, Connection)
                    worker, request = at_work.pop(ready)
                    try:
                        worker.wait(request)
                    except (OSError, EOFError) as error:
                        raise EngineCrash(f"the planner died of {request.arguments[0].file}") from error
                    idle.append(worker)
                    bar.update()
        return [request.result() for request in requests]

"""Find walkthroughs for many games at once, in worker processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait

from rl4vlm.core.progress import progress
from rl4vlm.envs.alfworld.games import GameData
from rl4vlm.envs.alfworld.workers.protocol import EngineCrash, Request
from rl4vlm.envs.alfworld.workers.worker import Worker, checked_processes, stop_all


class Solvers:
    """Worker processes that plan. Use it as a context manager and call it with games."""

    def __init__(self, processes: int | None = None) -> None:
        """`processes`: number of workers, by default one per core. Raises ValueError if it is below 1."""
        self._processes = checked_processes(processes)
        self._workers: list[Worker] = []

    def __enter__(self) -> Solvers:
        self._workers = [Worker() for _ in range(self._processes)]
        return self

    def __exit__(self, *_: object) -> None:
        stop_all(self._workers)

    def __call__(self, games: Sequence[GameData]) -> list[tuple[str, ...] | None]:
        """Find a walkthrough for each game and play it to its end. None for a game that the planner cannot solve.

        Raises:
            ValueError: a game cannot be translated; its file is named.
            EngineCrash: a worker died of a game, which is named.
        """
        requests = [Request(0, "solve", (game,)) for game in games]  # "solve" uses no game's engine, so 0 is free
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
                    idle.append(worker)  # one request at a time: games take from seconds to minutes
                    bar.update()
        return [request.result() for request in requests]

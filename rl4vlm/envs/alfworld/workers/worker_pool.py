"""The workers of an engine pool: which one takes a new game, and which ones are retired or replaced."""

from __future__ import annotations

from rl4vlm.envs.alfworld.workers.worker import Worker, stop_all


class WorkerPool:
    """At most `processes` active workers, and retired ones that stay until their last game has left."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._active: list[Worker] = []
        self._retired: list[Worker] = []

    @property
    def workers(self) -> list[Worker]:
        return [*self._active, *self._retired]

    def assign(self, game: int) -> Worker:
        """Give a game to a new worker if one more is allowed, else to the one with the fewest games."""
        self._retire_exhausted()
        # A worker without games is used first: it takes memory already, and a new one would take more.
        busy = all(worker.games for worker in self._active)
        if busy and len(self._active) < self.processes:
            self._active.append(Worker())
        worker = min(self._active, key=lambda worker: len(worker.games))
        worker.games.add(game)
        return worker

    def detach(self, worker: Worker, game: int) -> bool:
        """Detach a game from its worker. Returns False if the worker was retired."""
        worker.games.discard(game)
        if worker in self._retired and not worker.games:
            self._retired.remove(worker)
            worker.stop()
        return worker in self._active

    def replace(self, dead: Worker) -> Worker:
        """Start a worker in place of a dead one. It takes over the games."""
        dead.stop(patience=0.5)  # it may be hanging rather than dead
        fresh = Worker()
        fresh.games = set(dead.games)
        group = self._active if dead in self._active else self._retired
        group[group.index(dead)] = fresh
        return fresh

    def stop(self) -> None:
        """Stop all workers. Safe to call twice."""
        stop_all(self._active, self._retired)

    def _retire_exhausted(self) -> None:
        for worker in [worker for worker in self._active if worker.exhausted]:
            self._active.remove(worker)
            if worker.games:  # it serves these until each starts again, in another worker
                self._retired.append(worker)
            else:
                worker.stop()

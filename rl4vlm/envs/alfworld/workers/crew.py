"""The workers of a pool: who takes one more game, who is too worn to, who comes in place of the dead."""

from __future__ import annotations

from rl4vlm.envs.alfworld.workers.process import Worker, stop_all


class Crew:
    """At most `processes` workers that take games, and retired ones that stay until their last game has left them."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._active: list[Worker] = []
        self._retired: list[Worker] = []

    @property
    def workers(self) -> list[Worker]:
        return [*self._active, *self._retired]

    def take(self, game: int) -> Worker:
        """The worker that has a game from now on: a new one while there may be more, else the least busy."""
        self._retire_the_worn()
        busy = all(worker.games for worker in self._active)
        if busy and len(self._active) < self.processes:
            self._active.append(Worker())
        worker = min(self._active, key=lambda worker: len(worker.games))
        worker.games.add(game)
        return worker

    def release(self, worker: Worker, game: int) -> bool:
        """Take a game from its worker; whether that goes on with others, or for others to come."""
        worker.games.discard(game)
        if worker in self._retired and not worker.games:
            self._retired.remove(worker)
            worker.stop()
        return worker in self._active

    def replace(self, dead: Worker) -> Worker:
        """A fresh worker in a dead one's place, with its games."""
        dead.stop(patience=0.5)
        fresh = Worker()
        fresh.games = set(dead.games)
        among = self._active if dead in self._active else self._retired
        among[among.index(dead)] = fresh
        return fresh

    def stop(self) -> None:
        """End all workers. Safe to call twice."""
        stop_all(self._active, self._retired)

    def _retire_the_worn(self) -> None:
        for worker in [worker for worker in self._active if worker.worn]:
            self._active.remove(worker)
            if worker.games:
                self._retired.append(worker)
            else:
                worker.stop()

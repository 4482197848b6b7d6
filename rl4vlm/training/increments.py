"""Resume for demonstrations and evaluations: what is finished is saved every few minutes, and a rerun continues."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from rl4vlm.core.files import jsonable
from rl4vlm.training.signals import SignalFlag, stopped_by, watch_signals
from rl4vlm.training.store import StateFolder, StateStore

FILE = "progress.json"
QUICK_SECONDS = 60.0
"""A run shorter than this does not compute its key, which would read all of its inputs and code."""


class Increments:
    """Saves what a run has made, every `save_minutes` and when a signal asks it to stop.

    Each state holds what is new since the one before, so that a set of 45,000 images is written once and not at every
    save.

    Args:
        folder: where the states are; None turns saving off.
        key: computes everything that determines the run's results.
        save_minutes: minutes between two saves. A shorter run saves nothing, unless a signal arrives.
        flag: says which signal has arrived.
    """

    def __init__(
        self, folder: StateFolder | None, key: Callable[[], Mapping[str, Any]], save_minutes: float, flag: SignalFlag
    ) -> None:
        self._folder, self._key, self._save_minutes, self._flag = folder, key, save_minutes, flag
        self._began = self._saved_at = time.monotonic()

    @cached_property
    def _store(self) -> StateStore:
        assert self._folder is not None
        return StateStore(self._folder.path, self._key(), keep=None)

    def load(self) -> list[tuple[Path, dict[str, Any]]]:
        """The folder and the content of each state of the run, oldest first; empty if there is none."""
        if self._folder is None or not self._folder.path.is_dir():
            return []
        found = [(state, json.loads((state / FILE).read_bytes())) for state in self._store.sequence()]
        if found:
            state, content = found[-1]
            print(f"continuing from {state}: {content['position']}", file=sys.stderr)
        return found

    def on_step(self, position: str, content: Callable[[], tuple[Mapping[str, Any], Sequence[Path]]]) -> None:
        """Save if it is time. The run calls this at each point that it can continue from.

        Args:
            position: how far the run is, in words.
            content: returns what is new since it was called last, as data that JSON can hold, and files that belong to
                it. They are saved beside it, under their names.

        Raises:
            Interrupted: a signal arrived; the state is saved.
            ValueError: the state cannot be saved.
        """
        if self._folder is None:
            return
        now, asked = time.monotonic(), self._flag.number
        if asked is None and now - self._saved_at < 60 * self._save_minutes:
            # Compute the key now, not at the first save: code and inputs may be edited in between.
            if now - self._began > QUICK_SECONDS:
                _ = self._store
            return
        new, files = content()
        with self._store.saving() as draft:
            for source in files:
                with draft.file(source.name) as file:
                    file.write(source.read_bytes())
            with draft.file(FILE) as file:
                file.write(json.dumps({**new, "position": position}, default=jsonable).encode())
        self._saved_at = now
        if asked is not None:
            raise stopped_by(asked, position, self._store.folder)

    def clear(self) -> None:
        """Remove the states of this run, which has ended."""
        if self._folder is not None and self._folder.path.is_dir():
            self._store.clear()


@contextmanager
def increments(
    folder: StateFolder | None, key: Callable[[StateFolder], Mapping[str, Any]], save_minutes: float
) -> Iterator[Increments]:
    """Save a run's progress while the block lasts. A block that ends without an error removes the states.

    The block publishes the run's outputs before it ends.

    Args:
        folder: where the states are kept; None turns saving off.
        key: computes everything that determines the run's results (`StateFolder.key`).
        save_minutes: minutes between two saves.
    """
    if folder is None:
        yield Increments(None, dict, save_minutes, SignalFlag())
        return
    with folder.locked():
        with watch_signals() as flag:
            kept = Increments(folder, lambda: key(folder), save_minutes, flag)
            yield kept
        kept.clear()

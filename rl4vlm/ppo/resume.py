"""Runs that lose nothing when they are killed: their state is saved as they go, and taken up by the same command."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from rl4vlm.core.interrupt import Interrupted, Watch, watch_signals
from rl4vlm.core.runlog import atomic_write_text, package_versions, sha256_of
from rl4vlm.core.states import StateStore
from rl4vlm.ppo import checkpoint
from rl4vlm.ppo.settings import TrainingSettings
from rl4vlm.ppo.state import Training

FILE = "training.pt"
LOGS = ("metrics.jsonl", "timing.jsonl")
"""What a run writes line by line: kept with the state, since a rerun may find the files gone, or ahead of it."""
UNDECISIVE = ("save_every", "loggers")
"""Settings that change nothing of what a run comes to."""


@dataclass(frozen=True)
class StateFolder:
    """Where a run keeps its state, and the SHA-256 of every source file that it is made of."""

    path: Path
    code: Mapping[str, str | None]


class Keeper:
    """Saves a run when it is due, and when a signal asks the run to stop; without a `store`, never.

    Each of several processes has one and calls it at the same steps; the main process reads and writes for all.
    """

    def __init__(
        self, store: StateStore | None, out: Path, settings: TrainingSettings, watch: Watch, started: float
    ) -> None:
        self._store, self._out, self._settings, self._watch = store, out, settings, watch
        self._begun = started

    @property
    def seconds(self) -> float:
        """Wall time of the run, of those of its parts that led to where it is."""
        return time.monotonic() - self._begun

    def take_up(self, state: Training) -> None:
        """Put `state` where the newest whole state of the run is, if there is one, and its logs with it."""
        if self._store is None:
            return
        processes = state.processes
        folder = processes.gather(self._store.newest() if processes.is_main else None)[0]
        if folder is None:
            return
        saved = checkpoint.read(folder / FILE)
        checkpoint.restore(state, saved["training"])
        self._begun -= saved["seconds"]
        if processes.is_main:
            for name, text in saved["logs"].items():
                atomic_write_text(self._out / name, text)
            print(f"going on from {folder}: {position(state)}", file=sys.stderr)

    def pause(self, state: Training) -> None:
        """Save `state` if it is time.

        Raises:
            Interrupted: a signal has come, to any of the processes; the state is saved.
            ValueError: the state cannot be saved.
        """
        if self._store is None:
            return
        # A signal finds the processes at different steps: all stop after the step that the last of them is at.
        asked = next((number for number in state.processes.gather(self._watch.number) if number), None)
        if asked is not None:
            self._save(self._store, state)
            message = f"stopped by {Signals(asked).name} at {position(state)}"
            raise Interrupted(asked, f"{message}; the same command goes on from {self._store.folder}")
        between = not state.rows and state.rollout is None
        over = state.update > self._settings.updates
        if between and (over or (state.update - 1) % self._settings.save_every == 0):
            self._save(self._store, state)

    def _save(self, store: StateStore, state: Training) -> None:
        training = checkpoint.capture(state)
        if state.processes.is_main:
            logs = {name: (self._out / name).read_text(encoding="utf-8") for name in LOGS}
            with store.saving() as draft, draft.file(FILE) as file:
                checkpoint.write({"training": training, "logs": logs, "seconds": self.seconds}, file)
        # A launcher kills the other processes when one ends: none does before the state is on disk.
        state.processes.gather(None)


@contextmanager
def resumable(
    state: Training,
    folder: StateFolder | None,
    *,
    out: Path,
    settings: TrainingSettings,
    inputs: Mapping[str, Path],
    started: float,
    **decides: Any,
) -> Iterator[Keeper]:
    """Take a run up where it was left, and keep its state while the block lasts; a block that ends well removes it.

    `inputs` are files and folders that the run reads, and `decides` what else decides it beside its settings and code:
    a state of another run, by any of these, is not taken up. `started` is the `time.monotonic()` at which this part of
    the run began. With `folder` None nothing is kept.
    """
    if folder is None:
        yield Keeper(None, out, settings, Watch(), started)
        return
    key = {
        **decides,
        "processes": {"count": state.processes.count, "split": state.learner.accelerator.is_fsdp2},
        "settings": {name: value for name, value in vars(settings).items() if name not in UNDECISIVE},
        "inputs": {name: sha256_of(path) or str(path) for name, path in inputs.items()},
        "code": folder.code,
        "packages": package_versions(),
    }
    store = StateStore(folder.path, key)
    with watch_signals() as watch:
        keeper = Keeper(store, out, settings, watch, started)
        keeper.take_up(state)
        yield keeper
    if state.processes.is_main:
        store.clear()


def position(state: Training) -> str:
    """Where a run stands, in words."""
    if state.rollout is None:
        return f"update {state.update}, {len(state.rows)} steps into its rollout"
    return f"update {state.update}, {state.fit.seen} samples into its fit"

"""Runs that lose nothing when they are killed: their state is saved as they go, and taken up by the same command."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import Signals
from typing import Any, ClassVar, Protocol, cast

from rl4vlm.core.files import atomic_write_text, sha256_of
from rl4vlm.results.provenance import package_versions
from rl4vlm.training import model_state as checkpoint
from rl4vlm.training.distributed import Processes
from rl4vlm.training.model_state import ModelState
from rl4vlm.training.signals import Interrupted, SignalFlag, watch_signals
from rl4vlm.training.store import Draft, Part, StateFolder, StateStore

FILE = "training.pt"
MODEL_STATE = "model_state.pt"
"""Weights and moments, nearly all of a state, in a file that all processes read; split ones are what each has alone."""
NUMERICS_ONLY = ("device", "micro_batch_size", "gradient_checkpointing")
"""Settings that change what a run comes to by no more than the rounding of sums."""
IRRELEVANT = ("save_every", "loggers", "process_timeout", *NUMERICS_ONLY)
"""Settings that may change between two parts of a run: what helps after a process that stood still, or when memory is
short, must not cost the days before it."""


class Resumable(Protocol):
    """A training between two of its steps.

    Its `model_state`, `shared_state`, `rank_state` and the global random streams, loaded into a training that was begun
    with the same settings, continue this one exactly.
    """

    logs: ClassVar[tuple[str, ...]]
    """What the run writes line by line: kept with the state, since a rerun may find the files gone, or ahead of it."""

    @property
    def processes(self) -> Processes: ...

    @property
    def model_state(self) -> ModelState: ...

    @property
    def position(self) -> str:
        """Where the run stands, in words."""
        ...

    def should_save(self, save_every: int) -> bool:
        """Whether this is a moment to save a run that is saved so often."""
        ...

    def shared_state(self) -> dict[str, Any]:
        """What all processes have alike, by name."""
        ...

    def rank_state(self) -> dict[str, Any]:
        """What this process alone has, by name."""
        ...

    def load_state(self, fields: Mapping[str, Any]) -> None:
        """Take what `shared_state` and `rank_state` gave."""
        ...


class ResumeSettings(Protocol):
    """Settings of a run that may keep its state."""

    @property
    def save_every(self) -> int: ...


class ResumeManager:
    """Saves a run when it is due, and when a signal asks the run to stop; without a `store`, never.

    Each of several processes has one and calls it at the same steps. The main process writes what all have alike, and
    each what is its own.
    """

    def __init__(
        self, store: StateStore | None, out: Path, settings: ResumeSettings, flag: SignalFlag, started: float
    ) -> None:
        self._store, self._out, self._settings, self._flag = store, out, settings, flag
        self._begun = started

    @property
    def seconds(self) -> float:
        """Wall time of the run, of those of its parts that led to where it is."""
        return time.monotonic() - self._begun

    def resume(self, state: Resumable) -> None:
        """Put `state` where the newest whole state of the run is, if there is one, and its logs with it."""
        if self._store is None:
            return
        processes = state.processes
        folder = processes.gather(self._store.newest() if processes.is_main else None)[0]
        if folder is None:
            return
        saved = checkpoint.read(folder / FILE)
        fields = {**saved["common"], **checkpoint.read(folder / own_file(processes.rank))}
        model_state = (
            fields.pop("model_state") if processes.split else checkpoint.read(folder / MODEL_STATE, mapped=True)
        )
        state.model_state.restore(model_state)
        streams = fields.pop("streams")
        state.load_state(fields)
        checkpoint.restore_random_streams(streams)
        self._begun -= saved["seconds"]
        if processes.is_main:
            for change in _changes(saved["numerics_only"], _numerics_only(self._settings)):
                print(f"note: {change}; sums may be rounded otherwise", file=sys.stderr)
            for name, text in saved["logs"].items():
                atomic_write_text(self._out / name, text)
            print(f"going on from {folder}: {state.position}", file=sys.stderr)

    def on_step(self, state: Resumable) -> None:
        """Save `state` if it is time.

        Raises:
            Interrupted: a signal has come, to any of the processes; the state is saved.
            ValueError: the state cannot be saved.
        """
        if self._store is None:
            return
        # A signal finds the processes at different steps: all stop after the step that the last of them is at.
        asked = next((number for number in state.processes.gather(self._flag.number) if number), None)
        if asked is not None:
            self._save(self._store, state)
            message = f"stopped by {Signals(asked).name} at {state.position}"
            raise Interrupted(asked, f"{message}; the same command goes on from {self._store.folder}")
        if state.should_save(self._settings.save_every):
            self._save(self._store, state)

    def _save(self, store: StateStore, state: Resumable) -> None:
        shared, own = self._content(state)
        processes = state.processes
        if processes.is_main:
            with store.saving() as draft:
                processes.gather(draft.folder)
                for name, content in shared.items():
                    with draft.file(name) as file:
                        checkpoint.write(content, file)
                for part in processes.gather(_write_own(draft.folder, 0, own)):
                    if isinstance(part, OSError):
                        raise part
                    draft.parts.append(part)
        else:
            folder = cast(Path, processes.gather(None)[0])
            processes.gather(_write_own(folder, processes.rank, own))
        # A launcher kills the other processes when one ends: none does before the state is in its place.
        processes.gather(None)

    def _content(self, state: Resumable) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """The files that the main process saves for all, by name, and what this one saves for itself."""
        own = {**state.rank_state(), "streams": checkpoint.random_streams()}
        model_state = state.model_state.capture()
        if state.processes.split:
            own["model_state"] = model_state
        if not state.processes.is_main:
            return {}, own
        common = {
            "common": state.shared_state(),
            "logs": {name: (self._out / name).read_text(encoding="utf-8") for name in state.logs},
            "seconds": self.seconds,
            "numerics_only": _numerics_only(self._settings),
        }
        return {FILE: common} if state.processes.split else {FILE: common, MODEL_STATE: model_state}, own


def _numerics_only(settings: ResumeSettings) -> dict[str, Any]:
    """Those of a run's settings that change the rounding alone."""
    return {name: value for name, value in vars(settings).items() if name in NUMERICS_ONLY}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words."""
    return [
        f"{name} was {before[name]} when the state was saved and is {value} now"
        for name, value in now.items()
        if before[name] != value
    ]


def own_file(rank: int) -> str:
    """The file of a state that holds what a process alone has."""
    return f"process{rank}.pt"


def _write_own(folder: Path, rank: int, own: Mapping[str, Any]) -> Part | OSError:
    """Write a process's own part of a state; the main process is told of it, or why that failed."""
    draft = Draft(folder)
    try:
        with draft.file(own_file(rank)) as file:
            checkpoint.write(own, file)
    except Exception:
        if draft.error is None:
            raise
        return draft.error
    return draft.parts[0]


@contextmanager
def resumable(
    state: Resumable,
    folder: StateFolder | None,
    *,
    out: Path,
    settings: ResumeSettings,
    inputs: Mapping[str, Path],
    started: float,
    **run_key: Any,
) -> Iterator[ResumeManager]:
    """Take a run up where it was left, and keep its state while the block lasts; a block that ends well removes it.

    `inputs` are files and folders that the run reads, and `run_key` what else decides it beside its code and its
    settings, all but `IRRELEVANT`: a state of another run, by any of these, is neither taken up nor removed. `started`
    is the `time.monotonic()` at which this part of the run began. With `folder` None nothing is kept.
    """
    if folder is None:
        yield ResumeManager(None, out, settings, SignalFlag(), started)
        return
    key = {
        **run_key,
        "processes": {"count": state.processes.count, "split": state.processes.split},
        "settings": {name: value for name, value in vars(settings).items() if name not in IRRELEVANT},
        "inputs": {name: sha256_of(path) or str(path) for name, path in inputs.items()},
        "code": folder.code,
        "packages": package_versions(),
    }
    store = StateStore(folder.path, key)
    with watch_signals() as flag:
        manager = ResumeManager(store, out, settings, flag, started)
        manager.resume(state)
        yield manager
    if state.processes.is_main:
        store.clear()

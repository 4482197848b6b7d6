"""Exact resume: a training saves its state as it runs, and the same command continues a killed one from there."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from rl4vlm.core.files import atomic_write_text
from rl4vlm.core.output import UNFINISHED, publish, stage_output
from rl4vlm.results.provenance import InputFile
from rl4vlm.training import state_file
from rl4vlm.training.distributed import Processes
from rl4vlm.training.model_state import ModelState, random_streams, restore_random_streams
from rl4vlm.training.signals import SignalFlag, stopped_by, watch_signals
from rl4vlm.training.store import NUMERICS_ONLY, Draft, Part, StateFolder, StateStore, relevant

FILE = "training.pt"
MODEL_STATE = "model_state.pt"
"""Weights and moments, nearly all of a state. All processes read this file; with FSDP each has its own part instead."""


class Resumable(Protocol):
    """A training between two of its steps.

    Its `model_state`, `shared_state`, `rank_state` and the global random streams, loaded into a training that was begun
    with the same settings, continue this one exactly.
    """

    logs: ClassVar[tuple[str, ...]]
    """Files that the run appends to. Their text is part of the state: after a kill they may be gone, or have lines from
    after the save."""

    @property
    def processes(self) -> Processes: ...

    @property
    def model_state(self) -> ModelState: ...

    @property
    def plain_types(self) -> tuple[type, ...]:
        """Dataclasses of tensors and plain data that the fields hold. A state holds no others."""
        ...

    @property
    def position(self) -> str:
        """How far the run is, in words, for messages."""
        ...

    def should_save(self, settings: Any) -> bool:
        """Whether a run with these settings saves now. All processes must ask together."""
        ...

    def shared_state(self) -> dict[str, Any]:
        """Fields that are the same in all processes, by name."""
        ...

    def rank_state(self) -> dict[str, Any]:
        """Fields of this process alone, by name."""
        ...

    def load_state(self, fields: Mapping[str, Any]) -> None:
        """Load what `shared_state` and `rank_state` returned."""
        ...


class ResumeManager:
    """Saves a run regularly and when a signal asks it to stop, and loads the newest state when the run starts.

    Every process has a manager, and calls it at the same steps. The main process writes what all processes share, and
    each process its own part.

    Args:
        store: where the states are; None turns saving off.
        out: the run's draft (`run_folder`), with its logs.
        settings: the run's settings.
        flag: says which signal has arrived.
        started: the `time.monotonic()` at which this process began the run.
    """

    def __init__(self, store: StateStore | None, out: Path, settings: Any, flag: SignalFlag, started: float) -> None:
        self._store, self._out, self._settings, self._flag = store, out, settings, flag
        self._started = started

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, without the work that was lost when it was killed."""
        return time.monotonic() - self._started

    def resume(self, state: Resumable) -> None:
        """Load the newest complete state of the run into `state`, if there is one, and restore the logs."""
        if self._store is None:
            return
        processes = state.processes
        # The main process chooses for all: on a network file system the others might still see another newest state.
        folder = processes.gather(self._store.newest() if processes.is_main else None)[0]
        if folder is None:
            return
        saved = state_file.read(folder / FILE, state.plain_types)
        fields = {**saved["shared"], **state_file.read(folder / rank_file(processes.rank), state.plain_types)}
        if processes.sharded:
            model_state = fields.pop("model_state")
        else:
            # Mapped, so that eight processes on a machine do not each hold a copy of all moments.
            model_state = state_file.read(folder / MODEL_STATE, mapped=True)
        state.model_state.restore(model_state)
        streams = fields.pop("streams")
        state.load_state(fields)
        # Restored last, because whatever is loaded before might draw from the streams.
        restore_random_streams(streams)
        # So that `seconds` includes the time of earlier processes.
        self._started -= saved["seconds"]
        if processes.is_main:
            for change in _changes(saved["numerics_only"], _numerics_only(self._settings)):
                print(f"note: {change}; results may differ by rounding", file=sys.stderr)
            for name, text in saved["logs"].items():
                atomic_write_text(self._out / name, text)
            print(f"continuing from {folder}: {state.position}", file=sys.stderr)

    def on_step(self, state: Resumable) -> None:
        """Save `state` if it is time. The training calls this after every step.

        Raises:
            Interrupted: a signal arrived in one of the processes; the state is saved.
            ValueError: the state cannot be saved.
        """
        if self._store is None:
            return
        # A signal reaches the processes at different steps. Gathering makes all of them stop after the same one.
        asked = next((number for number in state.processes.gather(self._flag.number) if number), None)
        if asked is not None:
            self._save(self._store, state)
            raise stopped_by(asked, state.position, self._store.folder)
        if state.should_save(self._settings):
            self._save(self._store, state)

    def _save(self, store: StateStore, state: Resumable) -> None:
        shared, own = self._content(state)
        processes = state.processes
        if processes.is_main:
            with store.saving() as draft:
                # Tell the other processes where to write.
                processes.gather(draft.folder)
                for name, content in shared.items():
                    with draft.file(name) as file:
                        state_file.write(content, file, state.plain_types)
                for part in processes.gather(_write_rank_file(draft.folder, 0, own, state.plain_types)):
                    # Raised here, so that the store reports another process's full disk like its own.
                    if isinstance(part, OSError):
                        raise part
                    draft.parts.append(part)
        else:
            folder = cast(Path, processes.gather(None)[0])
            processes.gather(_write_rank_file(folder, processes.rank, own, state.plain_types))
        # The launcher kills all processes when one ends, so none may leave before the state is in place.
        processes.gather(None)

    def _content(self, state: Resumable) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """The content of the files that the main process writes, by name, and that of this process's own file."""
        own = {**state.rank_state(), "streams": random_streams()}
        # All processes must capture together, also those that do not write the result.
        model_state = state.model_state.capture()
        if state.processes.sharded:
            own["model_state"] = model_state
        if not state.processes.is_main:
            return {}, own
        shared = {
            "shared": state.shared_state(),
            "logs": {name: (self._out / name).read_text(encoding="utf-8") for name in state.logs},
            "seconds": self.seconds,
            "numerics_only": _numerics_only(self._settings),
        }
        return {FILE: shared} if state.processes.sharded else {FILE: shared, MODEL_STATE: model_state}, own


def _numerics_only(settings: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if name in NUMERICS_ONLY}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {before[name]} when the state was saved and is {value} now"
        for name, value in now.items()
        if before[name] != value
    ]


def rank_file(rank: int) -> str:
    """Name of the file of a state with the fields of one process."""
    return f"process{rank}.pt"


def _write_rank_file(folder: Path, rank: int, own: Mapping[str, Any], types: Collection[type]) -> Part | OSError:
    """Write a process's file, and return its manifest entry, or the error, which the main process then raises."""
    draft = Draft(folder)
    try:
        with draft.file(rank_file(rank)) as file:
            state_file.write(own, file, types)
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
    settings: Any,
    inputs: Mapping[str, InputFile],
    started: float,
    **run_key: Any,
) -> Iterator[ResumeManager]:
    """Resume a run if it has a saved state, and save it while the block lasts.

    When the block ends without an error, the run's outputs are published, and then its states are removed.

    States are kept per run: those of a run with another key (`run_key`, code, packages, inputs, number of processes, or
    settings other than `IRRELEVANT`) are neither loaded nor removed.

    Args:
        state: the run, freshly begun; changed in place if there is a saved state.
        folder: where states are kept; None turns saving off.
        out: the run's draft (`run_folder`).
        settings: the run's settings.
        inputs: what the run reads, by name.
        started: the `time.monotonic()` at which this process began the run.
        run_key: what else identifies the run, such as its stage, task and seed.

    Yields:
        The manager, whose `on_step` the training must call.
    """
    if folder is None:
        yield ResumeManager(None, out, settings, SignalFlag(), started)
        return
    processes = {"count": state.processes.count, "sharded": state.processes.sharded}
    key = folder.key(inputs, **run_key, processes=processes, settings=relevant(settings))
    store = StateStore(folder.path, key)
    with watch_signals() as flag:
        manager = ResumeManager(store, out, settings, flag, started)
        manager.resume(state)
        yield manager
    # Reached only if the block ended without an error: otherwise the states are needed for the next try. The outputs
    # are published first, so that a kill in between loses neither outputs nor states.
    if state.processes.is_main:
        publish(out)
        store.clear()


@contextmanager
def run_folder(out: Path, stage: str, names: Sequence[str], states: StateFolder | None) -> Iterator[Path]:
    """The draft of a training's outputs, beside a lock on its states; see `stage_output`.

    The first process of a training takes the locks and publishes the outputs. After an error the metrics so far stay
    in the draft until the next run.

    Args:
        out: the run's folder.
        stage: its stage.
        names: its outputs but for `run.json`.
        states: where its states are saved.
    """
    with ExitStack() as opened:
        # Before anything is loaded and the processes are connected: the folder may not be writable.
        if int(os.environ.get("RANK", "0")):
            yield out / UNFINISHED
            return
        if states is not None:
            opened.enter_context(states.locked())
        yield opened.enter_context(stage_output(out, [stage], names, keep_draft=True))

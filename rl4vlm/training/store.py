"""The saved states of a run on disk: each is complete or absent, has checksums, and is stored under its run's key."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from rl4vlm.config.stages.training import NO_EFFECT
from rl4vlm.core.files import atomic_directory, atomic_write_text, jsonable, read_json, sha256_of
from rl4vlm.core.lock import locked
from rl4vlm.results.provenance import InputFile, package_versions

MANIFEST = "manifest.json"
KEY = "key.json"
KEEP = 2
"""Number of states that are kept: the newest, and the one before it in case the newest is damaged."""
NUMERICS_ONLY = ("device", "micro_batch_size", "gradient_checkpointing", "engine_cache_gb")
"""Settings that change a run's results only by the rounding of sums."""
IRRELEVANT = (*NO_EFFECT, *NUMERICS_ONLY)
"""Settings that may differ when a run is resumed: a user who is short of memory, or whose processes time out, can
change them without losing the run."""


@dataclass(frozen=True)
class StateFolder:
    """Where a run keeps its state.

    Attributes:
        path: the folder.
        code: returns the digest of each module and data file that the run uses (`module_digests`).
    """

    path: Path
    code: Callable[[], Mapping[str, str]]

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder's lock, which lies beside it; see `rl4vlm.core.lock`.

        Raises:
            OSError: no state could be saved in the folder. Without this check, a run would fail at its first save.
        """
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "the states need a folder, and this is a file", str(self.path))
        if self.path.exists() and not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "no state can be saved here", str(self.path))
        return locked(self.path.with_name(f".{self.path.name}.lock"))

    def key(self, inputs: Mapping[str, InputFile], **run: Any) -> dict[str, Any]:
        """The key of a run's states: everything that determines its results.

        Args:
            inputs: what the run reads, by name.
            run: what else identifies the run, such as its stage, task and `relevant` settings.
        """
        return {
            **run,
            # A hub name has no files to digest.
            "inputs": {name: one.sha256 or one.path for name, one in inputs.items()},
            "code": self.code(),
            "packages": package_versions(),
        }


def relevant(settings: Any) -> dict[str, Any]:
    """The settings of a run by name, without `IRRELEVANT`."""
    return {name: value for name, value in vars(settings).items() if name not in IRRELEVANT}


@dataclass(frozen=True)
class Part:
    """The manifest's entry for one file of a state; `size` in bytes."""

    name: str
    size: int
    sha256: str


class Draft:
    """A state that is being written to `folder`.

    Attributes:
        folder: the folder, which gets its final name when the state is complete.
        parts: the files written so far.
        error: why a write failed, if one did.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[Part] = []
        self.error: OSError | None = None

    @contextmanager
    def file(self, name: str) -> Iterator[IO[bytes]]:
        """Open a new file of the state for writing. It is on disk when the block ends, and its checksum in `parts`."""
        with Path(self.folder, name).open("wb") as raw:
            checked = _Checked(raw)
            try:
                yield cast(IO[bytes], checked)
                raw.flush()
                # Before the folder gets its name: after a power cut, a complete state must not have empty files.
                os.fsync(raw.fileno())
            except OSError as error:
                self.error = error
                raise
            finally:
                # If a write fails, torch.save raises an error of its own that does not say why.
                self.error = self.error or checked.error
        self.parts.append(Part(name, checked.size, checked.digest.hexdigest()))


class _Checked(io.RawIOBase):
    """Writes to a file and computes the size and the checksum of what is written."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.size = 0
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            self._raw.write(data)
        except OSError as error:
            self.error = error
            raise
        written = memoryview(data).nbytes  # len() of a buffer would count its items
        self.digest.update(data)
        self.size += written
        return written


class StateStore:
    """The states of one run, in `folder/<digest of the key>/<number>/`; the highest number is the newest.

    States of other keys are neither used nor removed: if a setting was changed by mistake, changing it back continues
    the run.

    Args:
        folder: may hold the states of several runs.
        key: everything that determines the run's results.
        keep: how many states are kept, `KEEP` or None for all: each then holds only what is new since the one before.
        report: called with each message for the user; the default prints to standard error.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        *,
        keep: int | None = KEEP,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = folder
        self._keep = keep
        self._key = jsonable(key)
        self._home = folder / _digest(self._key)
        self._good: list[Path] = []
        self._report = report or _to_stderr

    def newest(self) -> Path | None:
        """The folder of the newest state that is complete, or None. Reports damaged states and those of other runs."""
        self._report_others()
        found = self._numbered()
        for folder in reversed(found):
            trouble = damage(folder)
            if trouble is None:
                self._good = [folder]
                return folder
            self._report(f"state {folder} is damaged and not used: {trouble}")
        if found:
            self._report(f"no state in {self._home} is complete: the run starts from the beginning")
        return None

    def sequence(self) -> list[Path]:
        """The folders of all states, oldest first, up to the first damaged one or the first gap.

        An interrupted `clear` leaves gaps. Reports the damage, and states of other runs.
        """
        self._report_others()
        self._good = []
        for folder in self._numbered():
            gap = _read_json(folder / MANIFEST).get("after") != self._newest_good
            if trouble := damage(folder) or ("the state before it is missing" if gap else None):
                self._report(f"state {folder} is damaged and not used, nor are those after it: {trouble}")
                break
            self._good.append(folder)
        return [*self._good]

    @contextmanager
    def saving(self) -> Iterator[Draft]:
        """Write a new state inside the block. It exists once the block ends without an error, and otherwise not at all.

        Raises:
            ValueError: the state cannot be written, for example because the disk is full. Earlier states stay.
        """
        # Count damaged states, too, so that no number is used twice.
        numbers = [int(folder.name) for folder in self._numbered()]
        target = self._home / f"{max(numbers, default=0) + 1:08d}"
        draft: Draft | None = None
        try:
            # Written once per process: the key cannot change while the run lasts.
            if not self._good:
                atomic_write_text(self._home / KEY, json.dumps(self._key, indent=2) + "\n")
            with atomic_directory(target) as folder:
                draft = Draft(folder)
                yield draft
                # The manifest comes last, so a state without one is incomplete.
                parts = jsonable(sorted(draft.parts, key=lambda part: part.name))
                manifest = {"parts": parts, **({} if self._keep else {"after": self._newest_good})}
                atomic_write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        except Exception as error:
            # What torch.save raises instead of an OSError may hide one, which the draft has noted.
            cause = error if isinstance(error, OSError) else draft and draft.error
            if not cause:
                raise
            raise ValueError(
                f"the run's state cannot be saved in {self._home}: {cause.strerror or cause}; "
                + (f"the state before it is kept, {self._newest_good}" if self._good else "there is none before it")
            ) from cause
        self._good = [*self._good, target]
        if self._keep is not None:
            self._good = self._good[-self._keep :]
        self._prune()

    def clear(self) -> None:
        """Remove all states of this run, which has ended, and report where those of other runs are."""
        shutil.rmtree(self._home, ignore_errors=True)
        for other in self._others():
            self._report(
                f"the run has ended; {other} ({_gigabytes(other)}) is of another run: remove it to discard that run"
            )
        # Leave nothing behind, unless other runs have states here.
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    @property
    def _newest_good(self) -> str | None:
        return self._good[-1].name if self._good else None

    def _numbered(self) -> list[Path]:
        if not self._home.is_dir():
            return []
        return sorted(entry for entry in self._home.iterdir() if entry.is_dir() and entry.name.isdigit())

    def _prune(self) -> None:
        """Remove older and damaged states, and the incomplete folder of a save that was killed."""
        kept = {*self._good, self._home / KEY}
        for entry in self._home.iterdir():
            if entry.is_dir() and entry not in kept:
                shutil.rmtree(entry, ignore_errors=True)
            elif entry not in kept:
                entry.unlink(missing_ok=True)

    def _others(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [entry for entry in self.folder.iterdir() if (entry / KEY).is_file() and entry != self._home]

    def _report_others(self) -> None:
        for other in self._others():
            differs = _differences(_read_json(other / KEY), self._key)
            self._report(
                f"state {other} ({_gigabytes(other)}) is of another run and not used; it differs in {_some(differs)}. "
                "It is kept, and used again if you undo the difference; remove the folder to discard it"
            )


def damage(folder: Path) -> str | None:
    """What is wrong with the state in `folder`, as a message that names the file; None if it is complete."""
    manifest = _read_json(folder / MANIFEST)
    try:
        parts = [Part(**entry) for entry in manifest["parts"]]
    except (KeyError, TypeError):
        return f"{MANIFEST} is missing or cannot be read"
    for part in parts:
        # Cheap checks first: the checksum reads every byte.
        file = folder / str(part.name)
        if not file.is_file():
            return f"{part.name} is missing"
        if file.stat().st_size != part.size:
            return f"{part.name} has {file.stat().st_size} bytes, not {part.size}"
        if sha256_of(file) != part.sha256:
            return f"{part.name} does not have the checksum that it was written with"
    return None


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if the file is missing, broken or holds something else."""
    try:
        return read_json(file)
    except (OSError, ValueError):
        return {}


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], above: str = "") -> list[str]:
    """Dotted names of the entries that differ between two keys."""
    names: list[str] = []
    for name in dict.fromkeys([*theirs, *ours]):
        old, new = theirs.get(name), ours.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names += _differences(old, new, f"{above}{name}.")
        elif old != new:
            names.append(above + name)
    return names


def _some(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _gigabytes(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e9:.2g} GB"


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

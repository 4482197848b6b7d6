"""Lock files and temporary folders.

A lock keeps two processes from writing the same output or state. A temporary folder that a killed process left is
removed by the next process that makes one with the same prefix.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import TextIO
from uuid import uuid4

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Error numbers of `flock` on a file system without locks."""


@contextmanager
def locked(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock inside the block. One process at a time can hold it, and it is released when that process ends.

    On a network file system that supports locks, it holds across machines. On a file system without locks, it does
    nothing.

    Args:
        file: the lock file, which exists only during the block; missing parent folders are created.
        wait: wait for another holder to end, instead of an error.

    Raises:
        ValueError: another process holds the lock; the message names it, and what the lock stands for.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with file.open("a+", encoding="utf-8") as opened:
            _take(opened, file, wait=wait)
            if not _is_at(opened, file):
                continue
            opened.truncate(0)
            # The text is for messages only. On a full disk it cannot be written, and the lock holds without it.
            with suppress(OSError):
                os.write(opened.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return


def _is_at(opened: TextIO, file: Path) -> bool:
    """Whether an opened lock file is still the one at its path. Its last holder may have removed it in the meantime."""
    with suppress(FileNotFoundError):
        return os.path.samestat(file.stat(), os.fstat(opened.fileno()))
    return False


def _take(opened: TextIO, file: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        opened.seek(0)
        raise ValueError(
            f"{opened.read() or 'another process'} is at work on {_held(file)}: wait until it ends, or stop it (its "
            f"lock is {file})"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _held(file: Path) -> Path:
    """What a lock stands for: `.lock` for the folder that it is in, `.NAME.lock` for NAME beside it."""
    name = file.name.removeprefix(".").removesuffix("lock").removesuffix(".")
    return file.with_name(name) if name else file.parent


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that is removed at the end of the block, or after a kill by the next call with its prefix."""
    root = Path(gettempdir())
    for abandoned in root.glob(f"{prefix}*"):
        # The folder of a running process is locked, and that of another user cannot be removed.
        with suppress(ValueError, OSError), locked(_lock_of(abandoned)):
            shutil.rmtree(abandoned)
    folder = root / f"{prefix}{uuid4().hex}"
    # Locked before it exists, so that no other process takes it for an abandoned one.
    with locked(_lock_of(folder)):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")

"""A lock file, so that two processes never write the same output or state."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What `flock` says on a file system without locks."""


@contextmanager
def locked(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock that one process at a time can hold, and that ends with its process.

    On a network file system it holds among all machines, if the file system passes locks on. On one without locks it
    does nothing.

    Args:
        file: the lock, made for the time of the block; missing parent folders are created.
        wait: wait for another holder to end, instead of an error.

    Raises:
        ValueError: another process holds the lock; the message names it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with file.open("a+", encoding="utf-8") as opened:
            _take(opened, file, wait=wait)
            # The holder before has removed its file, perhaps after it was opened here.
            if not (file.exists() and os.path.samestat(file.stat(), os.fstat(opened.fileno()))):
                continue
            opened.truncate(0)
            opened.write(f"process {os.getpid()} on {socket.gethostname()}")
            opened.flush()
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return


def _take(opened: TextIO, file: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        opened.seek(0)
        raise ValueError(
            f"{opened.read() or 'another process'} is at work on {file.parent}: wait until it ends, or stop it (its "
            f"lock is {file})"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise

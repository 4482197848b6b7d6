"""A progress bar that also behaves in a log file: on a terminal a bar, elsewhere now and then a whole line."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts work done; a context manager."""

    def __init__(self, total: int, description: str, unit: str, stream: TextIO) -> None:
        self._total, self._description, self._unit, self._stream = total, description, unit, stream
        self._done = 0
        self._values = ""
        self._started = self._shown = time.monotonic()
        self._bar = tqdm(total=total, desc=description, unit=unit, file=stream) if stream.isatty() else None

    def update(self, count: int = 1) -> None:
        """`count` more units are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._shown >= SECONDS_BETWEEN_LINES:
            self._write_line()

    def describe(self, **values: Any) -> None:
        """Show these values beside the bar from now on."""
        self._values = ", ".join(f"{name}={_short(value)}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._values, refresh=False)

    def _write_line(self) -> None:
        self._shown = time.monotonic()
        line = tqdm.format_meter(
            self._done,
            self._total,
            self._shown - self._started,
            ncols=0,
            prefix=self._description,
            unit=self._unit,
            postfix=self._values or None,
        )
        # The reader of a log may be gone (a scheduler's signal ends the `tee`, too): no reason to lose the work.
        with suppress(BrokenPipeError):
            self._stream.write(line.strip() + "\n")
            self._stream.flush()

    def __enter__(self) -> Progress:
        if self._bar is None:
            self._write_line()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._write_line()


def progress(total: int, description: str, *, unit: str = "it", stream: TextIO | None = None) -> Progress:
    """A progress display of `total` units of work on `stream` (standard error unless told)."""
    return Progress(total, description, unit, stream or sys.stderr)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

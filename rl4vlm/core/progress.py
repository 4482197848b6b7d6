"""Progress of long work: a bar on a terminal, and a whole line every few seconds in a log file."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Shows how much work is done. Use it as a context manager; `progress` creates one."""

    def __init__(self, total: int, description: str, unit: str, stream: TextIO) -> None:
        self._total, self._description, self._unit, self._stream = total, description, unit, stream
        self._done = 0
        self._values = ""
        self._started = self._shown = time.monotonic()
        # tqdm redraws its bar with carriage returns, which makes one endless line in a log file.
        self._bar = tqdm(total=total, desc=description, unit=unit, file=stream) if stream.isatty() else None

    def update(self, count: int = 1) -> None:
        """Report `count` more finished units."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._shown >= SECONDS_BETWEEN_LINES:
            self._write_line()

    def describe(self, **values: Any) -> None:
        """Show these values behind the bar, until the next call."""
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
        # A scheduler's signal may also end the `tee` that reads this log. The work must still be saved.
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
    """A progress display for `total` units of work.

    Args:
        total: number of units.
        description: text before the bar.
        unit: name of one unit.
        stream: where to write; standard error if not given.
    """
    return Progress(total, description, unit, stream or sys.stderr)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""The command line, `rl4vlm <stage>`: parse the arguments, build the settings, call the stage's one function.

The workflow does not watch this package: what a stage computes lies in its own module, and an edit here must not
retrain anything. `parser` says what can be typed, `options` what several subcommands share, `commands` what each does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rl4vlm.cli.parser import build_parser
from rl4vlm.core.interrupt import Interrupted

__all__ = ["build_parser", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit code.

    A ValueError, this package's word for wrong input, prints as one line. A run that a signal stopped, its state saved,
    gives the code that a shell gives for the signal: 143 for SIGTERM, 138 for SIGUSR1.
    """
    args = build_parser().parse_args(arguments)
    if not sys.stderr.isatty():
        # Hugging Face's own bars are made for terminals; ours behave in a log file too.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        args.stage(args)
    except ValueError as error:
        if os.environ.get("RL4VLM_TRACEBACK"):
            raise
        print(f"rl4vlm {args.name}: error: {error} (RL4VLM_TRACEBACK=1 shows where)", file=sys.stderr)
        return 2
    except Interrupted as stop:
        _last_words(f"rl4vlm {args.name}: {stop}")
        return stop.code
    return 0


def _last_words(text: str) -> None:
    """Print to standard error, which may be gone: the scheduler's signal ends the `tee` behind it, too."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # Or Python, failing to flush it once more at exit, would end with a code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

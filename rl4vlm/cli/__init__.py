"""The command line, `rl4vlm <stage>`: parse the arguments, build the settings, call the stage's one function.

The workflow does not watch this package: what a stage computes lies in its own module, and an edit here must not
retrain anything. `parser` says what can be typed, `options` what several subcommands share, `commands` what each does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rl4vlm.cli.parser import build_parser

__all__ = ["build_parser", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit code. A ValueError, this package's word for wrong input, prints as one line."""
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
    return 0

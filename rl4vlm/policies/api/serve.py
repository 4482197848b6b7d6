"""Runs `transformers serve` and ends when the process that started it ends.

Usage: `python -m rl4vlm.policies.api.serve ARGUMENTS`, with a pipe from the parent as standard input. The operating
system closes the pipe when the parent ends, even by SIGKILL, when no clean-up code runs.
"""

from __future__ import annotations

import os
import sys
from threading import Thread


def main() -> None:
    """Run `transformers serve` with this process's arguments."""
    Thread(target=_end_with_standard_input, daemon=True).start()
    from transformers.cli.transformers import main as transformers

    sys.argv = ["transformers", "serve", *sys.argv[1:]]
    transformers()


def _end_with_standard_input() -> None:
    # Nobody writes to the pipe. An empty read means that the parent has ended.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()

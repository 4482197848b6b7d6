"""`transformers serve` that ends when the process that started it does, however that ends.

Run as `python -m rl4vlm.policies.api.serve ARGUMENTS`, with a pipe as standard input that nobody writes to: the system
closes it when the other side dies, even by SIGKILL, where no clean-up code runs.
"""

from __future__ import annotations

import os
import sys
from threading import Thread


def main() -> None:
    """Run the command with this process's arguments."""
    Thread(target=_end_with_standard_input, daemon=True).start()
    from transformers.cli.transformers import main as transformers

    sys.argv = ["transformers", "serve", *sys.argv[1:]]
    transformers()


def _end_with_standard_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()

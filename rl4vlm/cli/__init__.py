"""The command line, `rl4vlm <stage>`: parse the arguments, build the settings, call the stage's one function.

The workflow does not watch this package: what a stage computes lies in its own module, and an edit here must not
retrain anything. `parser` says what can be typed, `options` what several subcommands share, `commands` what each does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rl4vlm.cli.parser import build_parser
from rl4vlm.training.signals import Interrupted

__all__ = ["build_parser", "main"]

TRAINING = "lower micro_batch_size or set gradient_checkpointing=true: a run with --state goes on with them"
LESS_MEMORY = {
    "sft": TRAINING,
    "ppo": f"{TRAINING}; or lower num_envs, which is another run",
    "cnn": "lower micro_batch_size, with which a run with --state goes on",
    "evaluate": "lower num_envs, or set quantize=4bit",
}
"""What a stage that ran out of a GPU's memory needs less of it with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit code.

    A ValueError, this package's word for wrong input, prints as one line. A run that a signal stopped, its state saved,
    gives the code that a shell gives for the signal: 143 for SIGTERM, 138 for SIGUSR1. One that runs out of a GPU's
    memory ends with 1 and a line that says what to lower.
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
    except _out_of_memory() as error:
        if os.environ.get("RL4VLM_TRACEBACK"):
            raise
        print(_less_memory(args.name, error), file=sys.stderr)
        return 1
    except Interrupted as stop:
        _last_words(f"rl4vlm {args.name}: {stop}")
        return stop.code
    return 0


def _out_of_memory() -> tuple[type[Exception], ...]:
    """What torch raises when a GPU is full; nothing where no stage has imported torch, which takes seconds."""
    torch = sys.modules.get("torch")
    return (torch.OutOfMemoryError,) if torch else ()


def _less_memory(stage: str, error: Exception) -> str:
    """What ran out, in which process, and what to do about it."""
    told = [str(error), *getattr(error, "__notes__", ())]
    hints = [*filter(None, [LESS_MEMORY.get(stage)]), "rl4vlm memory estimates what a model needs (--help)"]
    return f"rl4vlm {stage}: out of memory: {'; '.join([*told, *hints])} (RL4VLM_TRACEBACK=1 shows where)"


def _last_words(text: str) -> None:
    """Print to standard error, which may be gone: the scheduler's signal ends the `tee` behind it, too."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # Or Python, failing to flush it once more at exit, would end with a code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

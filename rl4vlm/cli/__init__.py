"""The command line, `rl4vlm <stage>`: parse the arguments, build the settings, call the stage's one function.

`parser` defines the subcommands, `options` the options that several of them share, `commands` what each does. An edit
here retrains nothing: what a stage computes is in its own module, and this package is in no stage's code digest.
"""

from __future__ import annotations

import errno
import os
import re
import select
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from signal import SIGINT, SIGPIPE
from typing import TextIO

from rl4vlm.cli.parser import build_parser
from rl4vlm.core.files import named
from rl4vlm.core.printable import printable
from rl4vlm.core.workflow import end_with_workflow
from rl4vlm.training.signals import Interrupted

__all__ = ["build_parser", "main"]

TRAIN_WITH_LESS = (
    "lower micro_batch_size or set gradient_checkpointing=true: a run with --state continues with the new values"
)
LESS_MEMORY = {
    "sft": TRAIN_WITH_LESS,
    "ppo": f"{TRAIN_WITH_LESS}; or lower num_envs, which starts another run",
    "cnn": "lower micro_batch_size: a run with --state continues with the new value",
    "evaluate": "lower num_envs, or set quantize=4bit",
}
"""By stage, what the user can do after it ran out of memory."""
WRONG_INPUT, FILE_FAILED, OUT_OF_MEMORY = 2, 3, 4
WHAT_TO_DO = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space or raise the quota, and run the same command again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or name another file system",
    errno.EROFS: "name a folder that can be written to",
    errno.EACCES: "change its permissions, or name another one",
    errno.EPERM: "change its permissions, or name another one",
    errno.EPIPE: "another program ended, or closed its connection: run the same command again",
    errno.EIO: "the disk is failing, full or gone: check it and run the same command again",
}
"""By error number of a failed file, what the user can do about it."""

_PASSWORD = re.compile(r"://[^/\s@]+@")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit code.

    0: done. 2: wrong input or settings (this package raises ValueError for them). 3: a file cannot be read or written.
    4: out of memory. 128 + N: ended by signal N, so 130 for Ctrl-C, 141 for a closed pipe, and 143 (SIGTERM) or 138
    (SIGUSR1) for a run that saved its state. All of these but 0 print one line. 1: a bug, with its traceback.
    """
    given = sys.argv[1:] if arguments is None else [*arguments]
    if sys.stderr is None:  # the caller closed it
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        "".join(given).encode()
    except UnicodeEncodeError:
        # The run's record, which is written after the work, could not hold such a path: refuse it before the work.
        _print_error(f"rl4vlm: error: the command line is not UTF-8: {' '.join(given)!a}")
        return WRONG_INPUT
    args = build_parser().parse_args(given)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that is not UTF-8 shows escape sequences for the characters that it lacks.
            stream.reconfigure(errors="backslashreplace")
    if not sys.stderr.isatty():
        # Hugging Face's own bars are made for terminals; ours behave in a log file too.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    end_with_workflow()
    try:
        args.stage(args)
        # Flush here: at exit, Python would report a closed pipe as an ignored exception.
        if sys.stdout:  # none if the caller closed it
            with named(Path("standard output")):
                sys.stdout.flush()
    except Interrupted as stop:
        _print_error(f"rl4vlm {args.name}: {stop}")
        return stop.code
    except KeyboardInterrupt:
        _print_error(f"rl4vlm {args.name}: interrupted{_continued(getattr(args, 'state', None))}")
        return 128 + SIGINT
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _out_of_memory(error):
            raise
        # A lost connection to another program raises BrokenPipeError as well. That one is reported as a failed file.
        streams = [stream for stream in (sys.stdout, sys.stderr) if stream]  # a stream that the caller closed is None
        if isinstance(error, BrokenPipeError) and any(map(_has_no_reader, streams)):
            _print_error(f"rl4vlm {args.name}: the program that read its output has ended ({error})")
            if sys.stdout:
                _discard(sys.stdout)
            return 128 + SIGPIPE
        if os.environ.get("RL4VLM_TRACEBACK"):
            raise
        code, line = _explained(args.name, error)
        _print_error(f"rl4vlm {args.name}: {_one_line(line)} (RL4VLM_TRACEBACK=1 shows where)")
        return code
    return 0


def _continued(states: Path | None) -> str:
    """What becomes of a run that Ctrl-C ended, from the folder of its states. Unlike other signals, it saves none."""
    return "" if states is None else f"; the same command continues from its last state in {states}, if there is one"


def _one_line(text: str) -> str:
    """A library's message on one line, without the user names and passwords of the addresses in it."""
    return _PASSWORD.sub("://[hidden]@", " ".join(text.split()))


def _explained(stage: str, error: Exception) -> tuple[int, str]:
    """The exit code for an error, and what to print."""
    if _out_of_memory(error):
        return OUT_OF_MEMORY, _memory_message(stage, error)
    failed = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(failed, OSError) or (failed is not error and failed.errno not in WHAT_TO_DO):
        return WRONG_INPUT, f"error: {error}"
    has_file = failed is error and failed.filename and failed.strerror
    message = f"error: {failed.filename}: {failed.strerror}" if has_file else f"error: {error}"
    return FILE_FAILED, "; ".join([message, *filter(None, [WHAT_TO_DO.get(failed.errno or 0)])])


def _has_no_reader(stream: TextIO) -> bool:
    """Whether a stream is a pipe whose reader has ended."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)  # no events: poll reports a closed pipe without being asked
    except (OSError, ValueError):  # not a file
        return False
    return bool(poll.poll(0))


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. Torch's class of this error is looked up only if a stage has imported torch."""
    torch = sys.modules.get("torch")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError) if torch else MemoryError):
        return True
    # On a CPU, torch raises an error without a class of its own.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def _memory_message(stage: str, error: Exception) -> str:
    """The message for a stage that ran out of memory: what ran out, in which process, and what to do about it."""
    lines = [str(error), *getattr(error, "__notes__", ())]
    hints = [*filter(None, [LESS_MEMORY.get(stage)]), "rl4vlm memory estimates what a model needs (--help)"]
    return f"out of memory: {'; '.join([*filter(None, lines), *hints])}"


def _print_error(text: str) -> None:
    """Print a line to standard error, whose reader may have ended: a scheduler's signal also ends the job's `tee`."""
    try:
        print(printable(text), file=sys.stderr, flush=True)  # it may quote a server
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Send the rest of a stream to the null device. Otherwise Python would fail to flush it at exit, and change the
    exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

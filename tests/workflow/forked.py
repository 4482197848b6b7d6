"""`python -m snakemake`, and the jobs it starts, in processes that are forked after the imports.

The imports are most of the time of a dry run and of a job of few steps. `tests.launch` imports this module into the
server that it forks processes from.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import snakemake.cli

from rl4vlm.config.code_digest import module_digests
from rl4vlm.config.scripted import SCRIPTED
from rl4vlm.tasks.registry import task_names
from tests.launch import write_to

# Cached here, so that forked processes need not compute the digest of every module.
module_digests("rl4vlm.cli", [*task_names(), *SCRIPTED])

CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect("\\0" + sys.argv[1])
    socket.send_fds(server, [json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
    code = server.recv(1)
sys.exit(code[0] if code else 1)
"""
"""Asks `_serve_jobs` for a job, gives it this process's streams, and ends with its exit code."""


def run_snakemake(words: list[str], search_path: list[str], fork_jobs: bool) -> int | None:
    """Run Snakemake in this process.

    Args:
        words: the command line.
        search_path: where to import this package and others from anew; empty for what is imported.
        fork_jobs: `rl4vlm` commands of jobs are forked, too.
    """
    if search_path:
        for name in [name for name in sys.modules if name.partition(".")[0] == "rl4vlm"]:
            del sys.modules[name]
        sys.path[:0] = search_path
    sys.argv = ["snakemake", *words]
    if not fork_jobs:
        return snakemake.cli.main(words)
    with _job_server() as address:
        # Bash prefers an exported function to a program of the same name.
        os.environ["BASH_FUNC_rl4vlm%%"] = f"() {{ {sys.executable} -I -S -c '{CLIENT}' {address} \"$@\"; }}"  # noqa: SIM112
        return snakemake.cli.main(words)


@contextmanager
def _job_server() -> Iterator[str]:
    """A child of this process that forks jobs. Yields the name of its socket."""
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        address = f"rl4vlm-jobs-{os.getpid()}"
        listener.bind(f"\0{address}")
        listener.listen()
        if os.fork() == 0:
            os.close(writer)
            _serve_jobs(listener, reader)
    os.close(reader)
    yield address


def _serve_jobs(listener: socket.socket, parent: int) -> None:
    """Fork a process per job until the parent has ended, which holds the other end of a pipe."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that jobs leave no zombies
    while parent not in select.select([listener.fileno(), parent], [], [])[0]:
        asking, _ = listener.accept()
        if os.fork() == 0:
            _run_job(asking)
        asking.close()
    os._exit(0)


def _run_job(asking: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    job, streams, *_ = socket.recv_fds(asking, 1 << 17, 3)
    words, folder, environment = json.loads(job)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        write_to(*streams[1:])
        code = importlib.import_module("rl4vlm.cli").main(words)
    except SystemExit as end:
        if isinstance(end.code, int):
            code = end.code
        else:
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        asking.send(bytes([code]))
        os._exit(code)

"""Launch processes in a test, without the seconds that imports and `accelerate launch` take.

They are forked from a server that has imported the libraries. Processes that train together get the environment
variables of a launcher.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from accelerate.commands.launch import _validate_launch_command as with_config
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

ROOT = Path(__file__).parents[1]
PRELOADED = [
    *("rl4vlm.ppo.train", "rl4vlm.ppo.cnn", "rl4vlm.sft.train", "rl4vlm.sft.data", "rl4vlm.base_model.pretrain"),
    *("rl4vlm.cli", "rl4vlm.evaluation.run", "rl4vlm.policies.vlm", "rl4vlm.results.tables", "rl4vlm.gallery.build"),
    *("rl4vlm.figures.assets", "rl4vlm.figures.lambda_ablation", "tests.workflow.forked"),
]
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(PRELOADED)
STRATEGIES = ("ddp", "fsdp")


def launcher_environment(strategy: str) -> dict[str, str]:
    """The environment variables that `accelerate launch` sets for config/accelerate/<strategy>.yaml."""
    config = ROOT / "config" / "accelerate" / f"{strategy}.yaml"
    words = ["--config_file", str(config), "--num_processes", "2", "--main_process_port", "1", "script.py"]
    arguments, *_ = with_config(launch_command_parser().parse_args(words))
    environment = prepare_multi_gpu_env(arguments)
    return {name: str(value) for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


def run_forked(
    function: Callable[..., Any], *arguments: object, cwd: Path = ROOT, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a function in a forked process, as `subprocess.run` runs a command.

    Args:
        function: may return an exit code.
        arguments: of the function.
        cwd: the process's working directory.
        environment: all environment variables of the process.

    Returns:
        The exit code (after a signal: its number, negative), and what was written to standard output and error.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("out", "error")]
        process = FORK_SERVER.Process(target=_run_in, args=(cwd, dict(environment), files, function, arguments))
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(function.__name__, process.exitcode, *(file.read_text() for file in files))


class Launched:
    """Processes that each run the same function, with their output in files."""

    def __init__(
        self, folder: Path, strategy: str | None, function: Callable[..., Any], *arguments: object, count: int = 2
    ) -> None:
        """Start the processes.

        Args:
            folder: for the output, in `log<rank>`.
            strategy: one of `STRATEGIES`, to train together; None for processes that know nothing of each other.
            function: what each runs. It may return an exit code.
            arguments: of the function.
            count: number of processes.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.logs = [folder / f"log{rank}" for rank in range(count)]
        self.processes: list[BaseProcess] = []
        for rank, log in enumerate(self.logs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment = {} if strategy is None else {**launcher_environment(strategy), **shared, **own}
            process = FORK_SERVER.Process(target=_run, args=(environment, log, function, arguments))
            process.start()
            self.processes.append(process)

    def wait(self, timeout: float = 600.0) -> list[int | None]:
        """The exit codes when all have ended. Each is killed after `timeout` seconds."""
        for process in self.processes:
            process.join(timeout)
        for process in self.processes:
            if process.is_alive():
                process.kill()
        return [process.exitcode for process in self.processes]

    def output(self) -> str:
        """What all processes have written to standard output and error."""
        return "\n".join(log.read_text() for log in self.logs if log.is_file())

    def assert_success(self) -> None:
        assert set(self.wait()) == {0}, self.output()


def write_to(out: int, error: int) -> None:
    """Redirect standard output and error of this process to these file descriptors.

    Output of C++ libraries and of child processes goes there, too.
    """
    for stream, descriptor in ((1, out), (2, error)):
        os.dup2(descriptor, stream)
    # New stream objects: those inherited from the forking process may have another encoding, or be seekable files.
    streams = (open(stream, "w", buffering=1, encoding="utf-8", closefd=False) for stream in (1, 2))  # noqa: SIM115
    sys.stdout, sys.stderr = streams


def _run(environment: Mapping[str, str], log: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    log.write_bytes(b"")
    _call([log, log], function, arguments)


def _run_in(
    cwd: Path,
    environment: Mapping[str, str],
    files: list[Path],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    _call(files, function, arguments)


def _call(files: list[Path], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with files[0].open("ab") as out, files[1].open("ab") as error:
        write_to(out.fileno(), error.fileno())
    try:
        code = function(*arguments)
    except Exception:
        traceback.print_exc()
        code = 1
    sys.exit(code if isinstance(code, int) else 0)

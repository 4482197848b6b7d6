"""Processes that train together, for tests: forked from one that has imported the libraries, and told of each other as
a launcher tells them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from accelerate.commands.launch import _validate_launch_command as with_config
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

ROOT = Path(__file__).parents[1]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["rl4vlm.ppo.train", "rl4vlm.sft.train", "rl4vlm.cli", "rl4vlm.base_model.tiny"])
WAYS = ("ddp", "fsdp")


def told(way: str) -> dict[str, str]:
    """What `accelerate launch` tells the processes of config/accelerate/<way>.yaml about how they share a training."""
    config = ROOT / "config" / "accelerate" / f"{way}.yaml"
    words = ["--config_file", str(config), "--num_processes", "2", "--main_process_port", "1", "script.py"]
    arguments, *_ = with_config(launch_command_parser().parse_args(words))
    environment = prepare_multi_gpu_env(arguments)
    return {name: str(value) for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


class Crew:
    """Processes that run `function(*arguments)`, each with its output in `log<rank>` of a folder; together by a `way`,
    or, with none, each alone."""

    def __init__(
        self, folder: Path, way: str | None, function: Callable[..., Any], *arguments: object, count: int = 2
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.logs = [folder / f"log{rank}" for rank in range(count)]
        self.processes: list[BaseProcess] = []
        for rank, log in enumerate(self.logs):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment = {} if way is None else {**told(way), **shared, **own}
            process = PROCESSES.Process(target=_member, args=(environment, log, function, arguments))
            process.start()
            self.processes.append(process)

    def wait(self, timeout: float = 600.0) -> list[int | None]:
        """The exit codes, when all have ended; those that have not in time are killed."""
        for process in self.processes:
            process.join(timeout)
        for process in self.processes:
            if process.is_alive():
                process.kill()
        return [process.exitcode for process in self.processes]

    def said(self) -> str:
        return "\n".join(log.read_text() for log in self.logs if log.is_file())

    def succeed(self) -> None:
        assert set(self.wait()) == {0}, self.said()


def _member(
    environment: Mapping[str, str], log: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        code = function(*arguments)
    except Exception:
        traceback.print_exc()
        code = 1
    sys.exit(code if isinstance(code, int) else 0)

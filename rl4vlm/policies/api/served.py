"""Plays with a local checkpoint over HTTP: runs Hugging Face's OpenAI-compatible server beside the policy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.core.files import sha256_of
from rl4vlm.core.lock import scratch_folder
from rl4vlm.core.output import check_unchanged
from rl4vlm.core.types import Reply, Request
from rl4vlm.policies.api import serve
from rl4vlm.policies.api.policy import ApiPolicy

HOST = "127.0.0.1"
START_SECONDS = 300.0
STOP_SECONDS = 5.0
STARTS = 3


class Server:
    """Runs `transformers serve` with one checkpoint on a free local port, from `start` to `close`.

    The model's name contains the SHA-256 of the checkpoint. So a new checkpoint in the same folder never gets answers
    of the old one from the cache.
    """

    def __init__(self, checkpoint: Path, *, dtype: str, device: str) -> None:
        digest = sha256_of(checkpoint) if checkpoint.is_dir() else None
        if digest is None:
            raise ValueError(f"no checkpoint folder {str(checkpoint)!r} to serve")
        check_unchanged(checkpoint)
        self.checkpoint = checkpoint
        self.model = f"checkpoint-{digest[:16]}"
        self.dtype = dtype
        self.device = device
        self._open = ExitStack()
        self.port = 0

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises ValueError if there is no model in the checkpoint's folder, or with the server's last line if it fails.
        This process claims one GPU for the server, which would otherwise use all visible ones.
        """
        from rl4vlm.models.devices import choose_device

        self.device = str(choose_device(self.device))
        folder = self._open.enter_context(scratch_folder("rl4vlm-serve-"))
        self._lay_out(folder / self.model)
        try:
            for attempt in range(1, STARTS + 1):
                log = folder / f"log{attempt}"
                process = self._spawn(folder, log)
                if self._is_ready(process):
                    return
                printed = log.read_text(encoding="utf-8", errors="replace")
                # Another process may have taken the port in the meantime. Then try again on another port.
                if process.poll() is None or "address already in use" not in printed:
                    break
            late = f"; it did not answer within {START_SECONDS:g} seconds" if process.poll() is None else ""
            raise ValueError(
                f"transformers serve did not start with {self.checkpoint}{late}; its last line: {_last_line(printed)}"
            ) from RuntimeError(printed)  # all of it is shown with RL4VLM_TRACEBACK=1
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the server, if it runs."""
        self._open.close()

    def _lay_out(self, place: Path) -> None:
        """Put the checkpoint where the server looks for it, with a LoRA adapter merged into its base model."""
        from rl4vlm.models.loading import check_loadable, write_merged
        from rl4vlm.models.lora import is_adapter

        if is_adapter(self.checkpoint):
            write_merged(self.checkpoint, place, dtype=self.dtype)
        else:
            check_loadable(self.checkpoint)
            place.symlink_to(self.checkpoint.resolve(), target_is_directory=True)

    def _spawn(self, folder: Path, log: Path) -> subprocess.Popen[bytes]:
        self.port = free_port()
        command = [sys.executable, "-m", serve.__name__, self.model]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--host", HOST, "--port", str(self.port), "--dtype", self.dtype, "--device", self.device],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": _absolute_python_path()},
            )
        self._open.callback(_stop, process)
        return process

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for an answer to `/health`. False if the process ends first or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if _is_healthy(self.port) and process.poll() is None:
                return True
            time.sleep(0.2)
        return False


class ServedPolicy:
    """An `ApiPolicy` with the server that it asks. `close` stops the server."""

    def __init__(self, server: Server, policy: ApiPolicy) -> None:
        self.server = server
        self.policy = policy

    @classmethod
    def load(
        cls,
        checkpoint: str,
        *,
        temperature: float,
        max_new_tokens: int,
        dtype: str,
        device: str,
        api: Mapping[str, Any],
    ) -> ServedPolicy:
        """Start a server for a checkpoint folder. `api` holds further fields of `ApiSettings`.

        Raises:
            ValueError: the folder is missing or the server does not start.
        """
        server = Server(Path(checkpoint), dtype=dtype, device=device)
        server.start()
        try:
            settings = build_settings(
                ApiSettings, {**api, "model": server.model, "base_url": f"http://{HOST}:{server.port}/v1"}
            )
            policy = ApiPolicy(
                checkpoint,
                settings,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                # The address would not do as a cache key: the port differs each time.
                endpoint=f"transformers serve {version('transformers')} {dtype}",
            )
        except BaseException:
            server.close()
            raise
        return cls(server, policy)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """See `ApiPolicy.act`."""
        return self.policy.act(requests)

    def affords(self, replies: int) -> bool:
        """See `ApiPolicy.affords`."""
        return self.policy.affords(replies)

    def check_replies(self) -> None:
        """See `ApiPolicy.check_replies`."""
        self.policy.check_replies()

    def totals(self) -> dict[str, Any]:
        """See `ApiPolicy.totals`."""
        return self.policy.totals()

    def close(self) -> None:
        """Close the connections, then stop the server."""
        self.policy.close()
        self.server.close()


def free_port() -> int:
    """A local port that no process listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _last_line(printed: str) -> str:
    """The last line with a word in it of what a program printed, such as the error below a traceback."""
    lines = (line.strip() for line in reversed(printed.splitlines()))
    return next((line for line in lines if any(map(str.isalnum, line))), "it printed nothing")


def _is_healthy(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _absolute_python_path() -> str:
    """PYTHONPATH with absolute entries, for a process in another working folder."""
    return os.pathsep.join(
        str(Path(item).resolve()) for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item
    )

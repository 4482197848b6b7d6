"""`run.json`: what a run was made from, and on which machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, TypeVar

from packaging.requirements import Requirement
from pydantic import BaseModel

from rl4vlm.core.files import RECORD, atomic_write_text, checked, jsonable, read_json, sha256_of
from rl4vlm.core.output import output_checksums

PACKAGE = "rl4vlm"

AnyPath = TypeVar("AnyPath", bound=PurePath)

EPISODES, SUMMARY = "episodes.jsonl", "summary.json"
"""What an evaluation writes beside its `run.json`."""
HELD_OUT, TRAINING_GAMES, ROLLING_PEAK = "held_out", "training_games", "rolling_peak"
"""The protocols of a success rate: over episodes that no training uses, over games that training plays too, and the
paper's, the highest rate over the last training episodes."""
METRICS, TIMING, CHECKPOINT = "metrics.jsonl", "timing.jsonl", "checkpoint"
"""What a training writes beside its `run.json`; SFT writes no `timing.jsonl`."""
KEPT = "checkpoints"
"""The folder of the policies that a PPO run keeps beside its last one (`keep_checkpoints`)."""
PERCEPTION = "perception.json"
"""What the base model reads off images, measured when it was made."""
DATA, MANIFEST = "data.json", "manifest.json"
"""Demonstrations, and how many there are of what; generated ALFWorld games have such a manifest, too."""


def run_folder(checkpoint: AnyPath) -> AnyPath:
    """The folder of the run that a checkpoint lies in, its last one or one of `KEPT`."""
    return checkpoint.parent.parent if checkpoint.parent.name == KEPT else checkpoint.parent


def record_of(checkpoint: Path) -> Path:
    """The `run.json` of the run that made a checkpoint."""
    return run_folder(checkpoint.resolve()) / RECORD  # it may be given as `.`, or by a link


def meant_checkpoint(folder: str | Path) -> str:
    """The end of an error about a folder that is no checkpoint: the one that it holds, if it is a run's; else empty."""
    inside = Path(folder, CHECKPOINT)
    return f": did you mean {inside}?" if inside.is_dir() else ""


@dataclass(frozen=True)
class InputFile:
    """A file or folder that a run reads: its path, and its SHA-256.

    The latter is None if there is no such path here, as for the name of a model on the hub.
    """

    path: str
    sha256: str | None


def inputs_now(paths: Mapping[str, Path]) -> dict[str, InputFile]:
    """The inputs of a run, by name, as they are now. Take them before they are read: a run may last for days, and its
    record must not have the checksum of what replaced them meanwhile."""
    return {name: InputFile(str(path), sha256_of(path)) for name, path in paths.items()}


def write_run_record(
    folder: Path,
    *,
    stage: str,
    settings: Mapping[str, Any],
    seeds: Mapping[str, Any],
    inputs: Mapping[str, InputFile],
    seconds: float,
    name: str = RECORD,
    digest: str | None = None,
) -> None:
    """Write `run.json`: what ran, from which code and inputs, on which machine, for how long, and what it wrote.

    Args:
        folder: the draft of the run's results (`stage_output`), complete but for this file.
        stage: name of the stage.
        settings: its settings, resolved.
        seeds: its seeds by purpose.
        inputs: what it read, by name (`inputs_now`).
        seconds: wall time.
        name: name of the file, if several runs write into one folder.
        digest: the `code_digest` of the stage, for a result that is kept longer than the code that made it.
    """
    record = {
        "stage": stage,
        "settings": settings,
        "seeds": seeds,
        "inputs": {name: asdict(one) for name, one in inputs.items()},
        "outputs": output_checksums(folder, name),
        "code": {**code_revision(), **({"digest": digest} if digest else {})},
        "packages": package_versions(),
        "hardware": hardware(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }
    atomic_write_text(folder / name, json.dumps(jsonable(record), indent=2, ensure_ascii=False) + "\n")


class _Input(BaseModel):
    path: str


class _Record(BaseModel):
    stage: str | None = None
    settings: dict[str, Any] = {}
    seeds: dict[str, Any] = {}
    inputs: dict[str, _Input] = {}
    code: dict[str, Any] = {}
    packages: dict[str, str] = {}
    hardware: dict[str, Any] = {}


def read_record(file: Path) -> dict[str, Any]:
    """Read what `write_run_record` wrote, or a version of it before this one.

    Raises:
        ValueError: the file is missing, or is no record; the message names it and the entry.
    """
    found = read_json(file)
    return checked(_Record, found, file).model_dump() | found


def code_revision() -> dict[str, Any]:
    """The git revision of this package, and whether its files differ from it; both None outside of a git checkout."""
    root = Path(__file__).parents[1]
    nothing = {"revision": None, "changed": None}
    # Installed into a folder of another repository, the package is not tracked there: that revision is not ours.
    if _git(root, "ls-files", "--error-unmatch", "__init__.py") is None:
        return nothing
    revision, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", ".")
    return nothing if revision is None else {"revision": revision, "changed": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def package_versions() -> dict[str, str]:
    """Versions of Python, of this package and of its installed requirements."""
    found = {"python": platform.python_version()}
    try:
        names = [PACKAGE, *(Requirement(line).name for line in requires(PACKAGE) or ())]
    except PackageNotFoundError:
        names = []
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GB, and the threads and GPUs of torch if it is loaded."""
    torch = sys.modules.get("torch")
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "threads": None if torch is None else torch.get_num_threads(),
        "gpus": _gpus(torch),
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _gpus(torch: ModuleType | None) -> list[str]:
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]

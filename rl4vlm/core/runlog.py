"""What a run leaves behind: files that are whole or absent, metrics line by line, and a record of what made them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

PACKAGE = "rl4vlm"
RECORD = "run.json"


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file so that it is at no time half-written; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path, *, replaces: Collection[str] = ()) -> Iterator[Path]:
    """A folder to fill that becomes `path`, in place of what was there, only when the block ends without an error.

    Where `replaces` names stages, nothing but an earlier output of one of them is replaced (`check_replaceable`).
    """
    if replaces:
        check_replaceable(path, replaces)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as attic:
            if path.exists():
                path.rename(Path(attic, "before"))
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(path: Path, stages: Collection[str]) -> None:
    """See to it that nobody's files are erased: `path` must be new, empty or an earlier output of one of `stages`.

    Raises:
        ValueError: there is something else, no `run.json` in it saying that such a stage made it; names `path`.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        found = read_json(path / RECORD).get("stage")
    except (ValueError, OSError):
        found = None
    if found not in stages:
        raise ValueError(
            f"{path} would be erased: it is there already, and no {RECORD} in it says that it was made by stage "
            f"{' or '.join(stages)}; name a new or empty folder, or remove it first"
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class JsonLines:
    """Appends one JSON object a line, each line on disk when `write` returns; a context manager.

    A number that JSON does not have (NaN, infinity) is written as null. Characters beyond ASCII are escaped, since some
    of them end a line for some readers (U+2028) and model text holds anything.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a" if append else "w", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(jsonable(line), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError naming a file that is missing or holds anything else."""
    return _json_object(_text(path), str(path))


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of one JSON object a line, each after its place (`FILE, line N`) for messages.

    Raises ValueError naming a file that is missing or, with its place, a line that is no JSON object.
    """
    # Not splitlines: a text may hold line separators that are none in JSON (U+2028).
    lines = _text(path).split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, start=1):
        place = f"{path}, line {number}"
        yield place, _json_object(line, place)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def _json_object(text: str, place: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{place} is no JSON object but {text[:40]!r}")
    return found


def jsonable(value: Any) -> Any:
    """`value` in JSON's own types: dataclasses as objects, paths as text, NaN and infinities as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: jsonable(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, Enum):
        return jsonable(value.value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write_run_record(
    folder: Path,
    *,
    stage: str,
    settings: Mapping[str, Any],
    seeds: Mapping[str, Any],
    inputs: Mapping[str, Path],
    seconds: float,
    name: str = RECORD,
) -> None:
    """Write `run.json`: what ran, from which code and inputs, on which machine, and for how long.

    Args:
        folder: where the results of the run lie.
        stage: name of the stage.
        settings: its settings, resolved.
        seeds: its seeds by purpose.
        inputs: files and folders it read, by name; each is recorded with its SHA-256, or null when it is not a path
            here (the name of a model on a hub).
        seconds: wall time.
        name: of the file, where several runs write into one folder.
    """
    record = {
        "stage": stage,
        "settings": settings,
        "seeds": seeds,
        "inputs": {name: {"path": str(path), "sha256": sha256_of(path)} for name, path in inputs.items()},
        "code": code_revision(),
        "packages": package_versions(),
        "hardware": hardware(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }
    atomic_write_text(folder / name, json.dumps(jsonable(record), indent=2, ensure_ascii=False) + "\n")


def sha256_of(path: Path) -> str | None:
    """SHA-256 of a file, or of a folder's file names and contents; None when nothing is there.

    The same whether a folder was made here or consists of links into a cache, and whether Snakemake marked its time.
    """
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(_files_below(path)):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
        return digest.hexdigest()
    if not path.is_file():
        return None
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    # Not rglob, which enters no linked folder.
    for parent, _, names in os.walk(folder, followlinks=True):
        files = (Path(parent, name) for name in names if name != ".snakemake_timestamp")
        yield from (file for file in files if file.is_file())


def code_revision() -> dict[str, Any]:
    """The git revision of this package and whether its files differ from it; both null outside a git checkout."""
    root = Path(__file__).parents[1]
    nothing = {"revision": None, "changed": None}
    # Installed into some other repository's folder, the package is not that repository's.
    if _git(root, "ls-files", "--error-unmatch", "__init__.py") is None:
        return nothing
    revision, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", ".")
    return nothing if revision is None else {"revision": revision, "changed": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Versions of Python, of this package and of those of its requirements that are installed."""
    found = {"python": platform.python_version()}
    try:
        names = [PACKAGE, *(requirement_name(line) for line in requires(PACKAGE) or ())]
    except PackageNotFoundError:
        names = []
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def requirement_name(requirement: str) -> str:
    """The package that a line such as `torch>=2; extra == "x"` is about."""
    return requirement.translate({ord(character): " " for character in "=<>!~;[( "}).split()[0]


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GB, and where torch is in use its threads and GPUs."""
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


class _Sink(Protocol):
    def log(self, line: Mapping[str, Any], *, step: int) -> None: ...

    def close(self) -> None: ...


class MetricSinks:
    """Passes a line of metrics on to every logger that was asked for."""

    def __init__(self, sinks: Sequence[_Sink]) -> None:
        self._sinks = sinks

    def log(self, line: Mapping[str, Any], *, step: int) -> None:
        """Log the numbers of `line` at `step`; what is not a number is left out."""
        numbers = {
            name: float(value)
            for name, value in line.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for sink in self._sinks:
            sink.log(numbers, step=step)


@contextmanager
def metric_sinks(loggers: Sequence[str], folder: Path, settings: Any) -> Iterator[MetricSinks]:
    """The optional metric loggers of a run: any of `tensorboard` and `wandb`.

    Raises:
        ValueError: an unknown logger, or one whose package is not installed.
    """
    unknown = [name for name in loggers if name not in _SINKS]
    if unknown:
        raise ValueError(f"no metric logger {unknown[0]!r}; there are {', '.join(_SINKS)}")
    with ExitStack() as opened:
        sinks: list[_Sink] = []
        for name in loggers:
            sink = _SINKS[name](folder, settings)
            opened.callback(sink.close)
            sinks.append(sink)
        yield MetricSinks(sinks)


class _TensorBoard:
    """TensorBoard event files in `folder`/tensorboard."""

    def __init__(self, folder: Path, settings: Any) -> None:
        writer = _optional("tensorboard.summary.writer.event_file_writer", "tensorboard")
        self._event = _optional("tensorboard.compat.proto.event_pb2", "tensorboard").Event
        self._summary = _optional("tensorboard.compat.proto.summary_pb2", "tensorboard").Summary
        self._writer = writer.EventFileWriter(str(folder / "tensorboard"))

    def log(self, line: Mapping[str, Any], *, step: int) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in line.items()]
        now = datetime.now(UTC).timestamp()
        self._writer.add_event(self._event(wall_time=now, step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A Weights & Biases run named after `folder`."""

    def __init__(self, folder: Path, settings: Any) -> None:
        wandb = _optional("wandb", "wandb")
        self._run = wandb.init(project=PACKAGE, name=folder.name, dir=str(folder), config=jsonable(settings))

    def log(self, line: Mapping[str, Any], *, step: int) -> None:
        self._run.log(dict(line), step=step)

    def close(self) -> None:
        self._run.finish()


_SINKS: dict[str, Callable[[Path, Any], _Sink]] = {"tensorboard": _TensorBoard, "wandb": _WandB}


def _optional(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"metric logger {package!r} needs its package: pip install {package}") from error

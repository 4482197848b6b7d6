"""Files that are whole or absent, JSON line by line, and checksums."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

RECORD = "run.json"


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file so that it is never half-written; folders above it are made."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is never half-written; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
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

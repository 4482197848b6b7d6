"""Atomic writes, JSON, JSON-lines and YAML files, and checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from rl4vlm.core.lock import locked

RECORD = "run.json"
Checked = TypeVar("Checked", bound=BaseModel)
WRITE_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Error numbers of a write to an open file, whose error does not name the file."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Inside the block, errors of failed writes name `path`, unless they name a file already."""
    try:
        yield
    except OSError as error:
        if error.errno in WRITE_FAILED:
            error.filename = error.filename or str(path)
        raise


@contextmanager
def atomic_files(paths: Iterable[Path]) -> Iterator[dict[Path, Path]]:
    """Replace several files together: none is replaced before all new contents are on the disk.

    Yields, by path, the temporary files to write. They take the places of `paths` when the block ends without an error.
    An error or a kill before that leaves all files as they were. Missing parent folders are created.
    """
    # Hidden names, so that no glob for results matches them. A draft that a killed process left is overwritten. Every
    # process takes the locks in the same order, so that no two wait for each other forever.
    drafts = {path: path.with_name(f".{path.name}.unfinished") for path in sorted(paths)}
    with ExitStack() as locks:
        for path in drafts:
            with named(path):
                locks.enter_context(locked(path.with_name(f".{path.name}.lock"), wait=True))
        try:
            yield drafts
            for path, draft in drafts.items():
                with named(path):
                    flush(draft)
            for path, draft in drafts.items():
                draft.replace(path)
        finally:
            for draft in drafts.values():
                draft.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Replace one file in one step; yields the temporary file to write. See `atomic_files`."""
    with named(path), atomic_files([path]) as drafts:
        yield drafts[path]


def flush(file: Path) -> None:
    """Force a file's content onto the disk (fsync). Otherwise a power failure after its rename could leave it empty."""
    with file.open("rb") as content:
        os.fsync(content.fileno())


def atomic_write_all(contents: Mapping[Path, bytes]) -> None:
    """Replace several files, by path, in one step; see `atomic_files`."""
    with atomic_files(contents) as drafts:
        for path, draft in drafts.items():
            with named(path):
                draft.write_bytes(contents[path])


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one step; see `atomic_file`."""
    with atomic_file(path) as draft:
        draft.write_bytes(content)


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8 in one step; see `atomic_file`."""
    atomic_write_bytes(path, text.encode("utf-8"))


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Create or replace a folder in one step.

    Yields an empty temporary folder to fill. It becomes `path` when the block ends without an error; otherwise `path`
    stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside `path`: a rename is atomic only within one file system.
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        draft = scratch / "new"
        draft.mkdir()
        yield draft
        # rename() does not replace a folder that holds files, so move the old one out of the way first.
        if path.exists():
            path.rename(scratch / "old")
        draft.rename(path)


class JsonLines:
    """Writes a file of one JSON object per line. Use it as a context manager.

    NaN and infinity are written as null, because JSON has neither. Each line has reached the operating system when
    `write` returns, so a killed process loses none.

    Args:
        path: the file; missing parent folders are created.
        append: continue an existing file instead of replacing it.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("a" if append else "w", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one object."""
        # json.dumps escapes non-ASCII characters. Some of them (U+2028) end a line for some readers, and a model's
        # reply may contain any.
        with named(self._path):
            self._file.write(json.dumps(jsonable(line), allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file is missing or holds something else; the message names it.
    """
    return _json_object(read_text(path), str(path))


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a file of one JSON object per line.

    Yields:
        The place (`FILE, line N`, for messages) and the object of each line.

    Raises:
        ValueError: the file is missing, or a line is not a JSON object; the message names the file and the line.
    """
    # str.splitlines would also split at U+2028 and U+0085, which may stand unescaped inside a JSON string.
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, start=1):
        place = f"{path}, line {number}"
        yield place, _json_object(line, place)


def read_text(path: Path) -> str:
    """Read a UTF-8 text. Raises ValueError that names the file if it is missing or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (IsADirectoryError, NotADirectoryError):
        raise ValueError(f"{path} is no file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


class UniqueKeysLoader(yaml.SafeLoader):
    """Refuses a mapping with the same key twice, of which YAML would silently keep the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise ValueError(f"the key {key.value!r} is there twice, again in line {key.start_mark.line + 1}")
                seen.add((key.tag, key.value))
        return node


def read_yaml(path: Path) -> Any:
    """Read a YAML file. Raises ValueError that names the file if it is missing or no YAML, or has a key twice."""
    text = read_text(path)
    try:
        return yaml.load(text, UniqueKeysLoader)
    # PyYAML does not catch Python's own errors about numbers, dates and keys, which are of many types.
    except Exception as error:
        raise ValueError(f"{path} is not YAML: {error}") from None


def _json_object(text: str, place: str) -> dict[str, Any]:
    found = parse_json(text, place)
    if not isinstance(found, dict):
        raise ValueError(f"{place} is no JSON object but {text[:40]!r}")
    return found


def parse_json(text: str, place: Path | str) -> Any:
    """The value that a JSON text holds.

    Args:
        text: the text.
        place: where it stands, for messages.

    Raises:
        ValueError: it is not JSON, nested too deeply, or holds NaN or infinity; the message names the place.
    """
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON: {error}") from None


def _finite(number: str) -> float:
    # Python's reader also takes NaN and Infinity, and reads 1e999 as infinity.
    if not math.isfinite(found := float(number)):
        raise ValueError(f"{number} is no finite number")
    return found


def checked(model: type[Checked], content: Mapping[str, Any], place: Path | str) -> Checked:
    """`content` as a `model`. Raises ValueError with the place, the entry and what is wrong with it."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {entry!r}: {first['msg']} (it is {first['input']!r:.60})") from None


def jsonable(value: Any) -> Any:
    """Convert a value to what JSON can hold.

    Dataclasses become objects, paths and enums their values, tuples, sets and arrays lists; NaN and infinity null.
    """
    return to_jsonable_python(value, inf_nan_mode="null", fallback=_plain)


def _plain(value: Any) -> Any:
    """What pydantic does not convert by itself."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def sha256_of(path: Path) -> str | None:
    """SHA-256 (hexadecimal) of a file, or of a folder's file names and contents; None if `path` does not exist.

    Symbolic links count as what they point to, so that a folder of links into a cache has the digest of a plain copy.
    """
    if path.is_dir():
        return sha256_of_folder({file.relative_to(path).as_posix(): sha256_of(file) for file in files_below(path)})
    if not path.is_file():
        return None
    about = path.stat()
    if about.st_size >= LARGE:
        return _sha256_of_large(path.resolve(), about.st_size, about.st_mtime_ns)
    return _sha256_of_content(path)


def sha256_of_folder(checksums: Mapping[str, str | None]) -> str:
    """The `sha256_of` a folder, from that of each file in it by name, such as `images/1.png`."""
    digest = hashlib.sha256()
    for name in sorted(checksums, key=PurePosixPath):
        digest.update(f"{name}\0{checksums[name]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


LARGE = 2**26
"""From this size in bytes on, a file is read once per process: a stage asks several times for the checksum of the
weights that it starts from. A smaller file may be written again before its time of change differs."""


def _sha256_of_content(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


# `size` and `changed_ns` are part of the cache's key alone: a changed file is read again.
@lru_cache(maxsize=256)
def _sha256_of_large(path: Path, size: int, changed_ns: int) -> str:
    return _sha256_of_content(path)


NOT_CONTENT = (".snakemake_timestamp", ".lock", ".unfinished")
"""What Snakemake and this project keep in output folders beside the outputs."""


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, also through symbolic links, but no time stamps, locks and drafts (`NOT_CONTENT`)."""
    # Path.rglob does not enter folders that are symbolic links.
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name not in NOT_CONTENT]
        files = (Path(parent, name) for name in names if name not in NOT_CONTENT)
        yield from (file for file in files if file.is_file())

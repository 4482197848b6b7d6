"""The files of a state hold tensors and plain data only, and reading one runs no code from it."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import torch

PLAIN = (type(None), bool, int, float, str, torch.Tensor)


def write(content: Mapping[str, Any], file: IO[bytes], types: Collection[type] = ()) -> None:
    """Write a part of a state.

    Args:
        content: tensors and plain data, in dictionaries, lists and tuples.
        file: the opened file.
        types: dataclasses of tensors and plain data that `content` may also hold.

    Raises:
        ValueError: it holds something else, which `read` would refuse.
    """
    _check_plain(content, types, "it")
    torch.save(content, file)


def _check_plain(value: Any, types: Collection[type], place: str) -> None:
    if type(value) in (dict, OrderedDict, *types):
        for name, inner in (value if isinstance(value, dict) else vars(value)).items():
            _check_plain(inner, types, f"{place}.{name}")
    elif type(value) in (list, tuple):
        for inner in value:
            _check_plain(inner, types, f"{place}[...]")
    elif type(value) not in PLAIN:
        raise ValueError(
            f"the run's state cannot be saved: {place} is of type {type(value).__name__}, neither a tensor nor plain "
            "data"
        )


def read(file: Path, types: Collection[type] = (), *, mapped: bool = False) -> dict[str, Any]:
    """Read what `write` wrote, tensors on the CPU.

    Args:
        file: the file.
        types: as `write` was given.
        mapped: map tensors into memory instead of reading them. Processes on one machine then share the memory. The
            file must not be removed while they are in use: on some network file systems its content is gone at once.

    Raises:
        ValueError: the file holds anything but tensors, plain data and `types`.
    """
    try:
        with torch.serialization.safe_globals([*types]):
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file} holds more than tensors and plain data, and is not loaded: {error}") from error
    return content

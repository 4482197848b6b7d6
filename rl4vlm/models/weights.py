"""Weights in files: what is damaged or not finite is refused, with its name, when it is read and when it is written."""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file


def check_finite_weights(named: Iterable[tuple[str, torch.Tensor]], place: str | Path) -> None:
    """Raise ValueError that names the first weight with NaN or infinity, and `place`, the file or folder it is for."""
    for name, weight in named:
        # The infinity norm needs no copy of the weight and propagates NaN. Quantised weights are integers.
        if weight.is_floating_point() and weight.numel():
            norm = torch.linalg.vector_norm(weight.detach(), math.inf)
            if not torch.isfinite(norm):
                raise ValueError(f"{place}: weight {name} holds NaN or infinite numbers")


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file. Raises ValueError that names it if it is missing, damaged or not finite."""
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    check_finite_weights(weights.items(), file)
    return weights


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Inside the block, a failed write of safetensors or tokenizers is an OSError like any other, with the folder.

    Both are written in Rust, which puts the system's error number into the text; tokenizers has no class of its own.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if not number and not isinstance(error, SafetensorError):
            raise
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, f"cannot be written: {error}", str(folder)) from error


def check_readable(folder: Path) -> None:
    """Raise ValueError that names the first JSON or safetensors file of a checkpoint that is cut or not one at all.

    The libraries that load a checkpoint do not say which file they failed on.
    """
    for file in sorted(folder.iterdir()):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
        except (ValueError, RecursionError, SafetensorError) as error:
            raise ValueError(f"{file} is damaged: {error}") from error

"""Weights in files: damaged or non-finite weights are errors that name them, when reading as well as when writing."""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

WRONG_SHOWN = 3  # weights that an error message names


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
    """Raise ValueError that names the first damaged JSON or safetensors file of a checkpoint, such as a truncated one.

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


def check_whole(source: str | Path, found: Mapping[str, Any], whose: str = "") -> None:
    """Raise ValueError if transformers initialised weights at random because the checkpoint lacks them.

    `found` is the `output_loading_info`, which leaves out tied weights; `whose` describes the source. Weights that only
    the checkpoint has are allowed, such as LLaVA-NeXT's `image_newline` with one view.
    """
    wrong = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    wrong += [
        f"{name} has shape {tuple(there)}, not {tuple(here)}" for name, there, here in sorted(found["mismatched_keys"])
    ]
    if wrong:
        more = f" and {len(wrong) - WRONG_SHOWN} more" if len(wrong) > WRONG_SHOWN else ""
        raise ValueError(
            f"the weights at {str(source)!r}{whose} are incomplete: {', '.join(wrong[:WRONG_SHOWN])}{more}"
        )

"""How a settings class is declared, and the types that settings share.

A setting is one field: its type with its bounds, its default, and below it a docstring that says what it means. The
checks, `rl4vlm STAGE --help` and docs/settings.md are made from these fields.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

import pydantic.dataclasses
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from rl4vlm.core.nearest import did_you_mean

Class = TypeVar("Class")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def settings(kind: type[Class]) -> type[Class]:
    """Make a frozen dataclass that checks its values, refuses unknown names and keeps the docstrings of its fields."""
    config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        # Write NaN and infinity as they are, not as null: in a mapping of arbitrary values, they are then noticed.
        ser_json_inf_nan="constants",
        # Someone may have typed an API key into the wrong setting.
        hide_input_in_errors=True,
    )
    return cast(type[Class], pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(kind))


def _no_switch(value: Any) -> Any:
    # In Python, True == 1.
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", value):
        known = "known: auto, cpu, cuda, cuda:1, mps, xpu"
        raise ValueError(f"no device; {did_you_mean(value, ('auto', 'cuda', 'cuda:1'), otherwise=known)}")
    return value


def _path(value: str) -> str:
    # Snakemake reads braces as wildcards, and a command reads a leading hyphen as an option. `~` is not expanded inside
    # quotes, so it would become a folder of that name.
    if not value or value[0] in "-~" or value != value.strip() or not value.isprintable() or set(value) & set("{}"):
        raise ValueError(
            f"{value!r} is no usable path: it may not begin with ~ or -, begin or end with a space, or hold braces or "
            "control characters; write it out, as /home/me/results"
        )
    return value


def _pattern(value: str) -> str:
    try:
        with warnings.catch_warnings():
            # Python warns about patterns that a later version will read in another way, such as `[[`.
            warnings.simplefilter("error")
            re.compile(value)
    except (re.error, FutureWarning) as error:
        raise ValueError(f"no regular expression: {error}") from error
    return value


SET_NAME = r"^[A-Za-z0-9_]+$"
"""The form of the name of a set of games, which is part of the name of an evaluation."""
LABEL = r"^[^,|\n]*$"
"""The form of a label of results: in tables, a comma stands between it and the games that were played."""
LARGEST = 2**63 - 1
"""The largest int64: torch and NumPy take no larger whole number as a seed, a size or a step."""

Count = Annotated[int, BeforeValidator(_no_switch), Field(ge=1, le=LARGEST)]
Natural = Annotated[int, BeforeValidator(_no_switch), Field(ge=0, le=LARGEST)]
LARGEST_SEED = 2**32 - 1
"""The largest seed of NumPy's global generator, which libraries seed."""
Seed = Annotated[int, BeforeValidator(_no_switch), Field(ge=0, le=LARGEST_SEED)]
Weight = Annotated[float, BeforeValidator(_no_switch), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(_no_switch), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(_no_switch), Field(gt=0, le=10_000_000)]
"""A time limit in seconds, at most 115 days: sockets and timers raise OverflowError for much larger numbers."""
Share = Annotated[float, BeforeValidator(_no_switch), Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
FilePath = Annotated[str, AfterValidator(_path)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Device = Annotated[str, AfterValidator(_device)]
DType = Literal["float32", "bfloat16", "float64"]
Quantization = Literal["4bit", "8bit"]
KVCache = Literal["static", "dynamic"]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]

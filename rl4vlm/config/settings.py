"""Settings dataclasses built from mappings.

Apart from `rl4vlm.config.load`, so that a model which reads its own file does not depend on which runs a config asks
for: an edit there must not retrain it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

Settings = TypeVar("Settings")


def build_settings(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Build a settings dataclass from a mapping; keys not named keep their defaults.

    Raises:
        ValueError: an unknown key (named with the nearest known ones) or a value that does not fit.
    """
    _refuse_unknown(kind, values, "")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise ValueError("; ".join(_complaint(item) for item in error.errors())) from error


def _refuse_unknown(kind: Any, values: Mapping[str, Any], above: str) -> None:
    known = [item.name for item in fields(kind) if item.init]
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known)
            meant = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown setting {above + key!r}; {meant}")
        if isinstance(value, Mapping):
            # `X | None` is a setting that may be left out whole.
            for inner in (hints[key], *get_args(hints[key])):
                if is_dataclass(inner):
                    _refuse_unknown(inner, value, f"{above}{key}.")


def _complaint(error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"setting {place}={error['input']!r}: {message}" if place else message

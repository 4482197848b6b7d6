"""Settings classes built from mappings, with messages that name the setting, its value and the nearest right name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from rl4vlm.config.fields import LARGEST
from rl4vlm.core.nearest import did_you_mean

Settings = TypeVar("Settings")


def build_settings(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Build a settings class from a mapping; settings that are not named keep their defaults.

    Raises:
        ValueError: an unknown name (with the nearest known ones) or a value that does not fit.
    """
    problems = [*unknown_settings(kind, values), *(f"setting {problem}" for problem in unusable_values(values))]
    if problems:
        raise ValueError("; ".join(problems))
    try:
        found: Settings = _adapter(kind).validate_python(dict(values))
        return found
    except ValidationError as error:
        raise ValueError("; ".join(complaint(item) for item in error.errors())) from None


def check_some(
    kind: type[Any], values: Mapping[str, Any], elsewhere: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Check some settings of a class; the others are set elsewhere.

    Args:
        kind: the settings class.
        values: the settings by name.
        elsewhere: settings of `kind` that may not be set here, with the section of a config that sets them.

    Returns:
        The same settings as plain values of their types: `1` and `"1e0"` are 1.0 if the setting is a float.

    Raises:
        ValueError: as `build_settings`, with all problems; or a setting of `elsewhere`.
    """
    hints = _hints(kind, include_extras=True)
    elsewhere = elsewhere or {}
    known = [item.name for item in fields(kind) if item.name not in elsewhere]
    typed: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in values.items():
        inner = settings_class(hints.get(name))
        if name in elsewhere:
            problems.append(f"setting {name!r} belongs in {elsewhere[name]}")
        elif name not in known:
            problems.append(f"unknown setting {name!r}; {did_you_mean(name, known)}")
        elif inner is not None and isinstance(value, Mapping):
            try:
                typed[name] = check_some(inner, value)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        else:
            adapter = _adapter_of(kind, name)
            try:
                typed[name] = adapter.dump_python(adapter.validate_python(value), mode="json")
            except ValidationError as error:
                problems += [complaint(item, (name,)) for item in error.errors()]
    if problems:
        raise ValueError("; ".join(problems))
    return typed


_MAY_BE_A_KEY = {"key_env", "base_url"}
"""Settings into which users put an API key by mistake: messages do not repeat them."""
_FINITE = ConfigDict(allow_inf_nan=False, ser_json_inf_nan="constants")


def _setting_adapter(kind: type[Any], name: str) -> TypeAdapter[Any]:
    hint = _hints(kind, include_extras=True)[name]
    return TypeAdapter(hint, config=None if settings_class(hint) else _FINITE)


# Cached: a dry run checks the same classes for every task, and reading their types takes longer than checking values.
_hints: Callable[..., dict[str, Any]] = cache(get_type_hints)
_adapter: Callable[..., TypeAdapter[Any]] = cache(TypeAdapter)
_adapter_of: Callable[..., TypeAdapter[Any]] = cache(_setting_adapter)


def plain_settings(settings: Any) -> dict[str, Any]:
    """The settings of an object as plain values, those of settings classes inside it as mappings."""
    plain: dict[str, Any] = _adapter(type(settings)).dump_python(settings, mode="json")
    return plain


def settings_class(hint: Any) -> type[Any] | None:
    """The settings class that a type asks for, alone or as `X | None`; None for any other type."""
    found = [inner for inner in (hint, *get_args(hint)) if isinstance(inner, type) and is_dataclass(inner)]
    return found[0] if found and get_origin(hint) not in (dict, tuple) else None


def unknown_settings(hint: Any, value: Any, above: str = "") -> Iterator[str]:
    """A message for every name in `value` that its type does not know."""
    if not isinstance(value, Mapping):
        return
    kind = settings_class(hint)
    if kind is not None:
        hints = _hints(kind)
        known = [item.name for item in fields(kind) if item.init]
        for name, inner in value.items():
            if name in known:
                yield from unknown_settings(hints[name], inner, f"{above}{name}.")
            else:
                yield f"unknown setting {f'{above}{name}'!r}; {did_you_mean(name, known)}"
    elif get_origin(hint) is dict:
        for name, inner in value.items():
            yield from unknown_settings(get_args(hint)[1], inner, f"{above}{name}.")


def unusable_values(value: Any, place: str = "") -> Iterator[str]:
    """A message for every number that no job can compute with, and for every text that no command line can hold.

    Args:
        value: a config, or a part of it: mappings, lists and plain values, nested.
        place: the key at which `value` stands, for messages.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from unusable_values(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from unusable_values(inner, f"{place}.{index}")
    elif isinstance(value, int) and abs(value) > LARGEST:
        yield f"{place}: a whole number of more than 63 bits"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place}={value}: not a finite number"
    elif isinstance(value, str) and _NOT_TEXT.search(value):
        yield f"{place}: the text holds a null character or half of a surrogate pair"
    elif isinstance(value, date | bytes | set):
        yield f"{place}={value!s}: a {type(value).__name__}; put a text into quotes"


_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


def complaint(error: ErrorDetails, above: tuple[str, ...] = ()) -> str:
    """A pydantic error as `setting PLACE=VALUE: what is wrong`."""
    place = ".".join(map(str, (*above, *error["loc"])))
    message = str(error["msg"]).removeprefix("Value error, ")
    if not place:
        return message
    if error["type"] in ("literal_error", "enum"):
        near = did_you_mean(error["input"], re.findall(r"'([^']*)'", message), otherwise="")
        message += f"; {near}" if near else ""
    if error["type"] == "string_type" and isinstance(error["input"], Mapping):
        message += ", not a mapping; a text with braces, such as {target}, needs quotes"
    # The message of a check of several settings names the wrong ones. Showing all of them would be long, and might show
    # an API key.
    hidden = isinstance(error["input"], Mapping) or error["type"] == "missing" or _MAY_BE_A_KEY & {*place.split(".")}
    shown = "" if hidden else f"={error['input']!r}"
    return f"setting {place}{shown}: {message}"

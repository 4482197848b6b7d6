"""Settings as `key=value` words of a command line, and back."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import Any

import yaml

from rl4vlm.config.load import merge
from rl4vlm.config.settings import Settings, build_settings, plain_settings


def stage_arguments(
    kind: type[Any], values: Mapping[str, Any], *, only: Collection[str] | None = None, but: Collection[str] = ()
) -> list[str]:
    """All settings of a stage, also those at their defaults, as words of a command line, not yet quoted for a shell.

    The words are sorted, and each value is written in the form of its type. So the command stays the same if lines of
    the config change places, or if `1` is written for `1.0`. `only` and `but` choose among the settings.
    """
    settings = plain_settings(build_settings(kind, values))
    chosen = {name: value for name, value in settings.items() if name not in but and (only is None or name in only)}
    return sorted(setting_words(chosen))


def setting_words(settings: Mapping[str, Any]) -> list[str]:
    """`settings` as `key=value` words that `parse_settings` reads back."""
    return [f"{key}={_as_text(value)}" for key, value in settings.items()]


def _as_text(value: Any) -> str:
    # Quote a text that looks like a list or mapping, or it would be read back as one.
    plain = isinstance(value, str) and not value.startswith(("[", "{")) and _from_text(value) == value
    return value if plain else json.dumps(value, sort_keys=True, allow_nan=False)


def _from_text(text: str) -> Any:
    """JSON where it is JSON, a YAML list or mapping where it looks like one, else the text itself."""
    try:
        return json.loads(text)
    # ValueError: not JSON, or a number with more digits than Python converts.
    except (ValueError, RecursionError):
        pass
    if text.startswith(("[", "{")):
        try:
            return yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            # The text itself, which YAML's own message shows, may hold a key.
            mark = getattr(error, "problem_mark", None)
            where = f" (wrong at character {mark.index + 1})" if mark else ""
            raise ValueError(f"the value begins with {text[0]}, but is neither JSON nor YAML{where}") from None
    return text


def parse_settings(kind: type[Settings], arguments: Sequence[str]) -> Settings:
    """Build a settings dataclass from `key=value` words; keys not named keep their defaults.

    A value is JSON (or text that needs no quotes); `a.b=value` sets entry `b` of setting `a`.

    Raises:
        ValueError: a word without `=`, an unknown key (named with the nearest known ones) or a value that does not fit.
    """
    return build_settings(kind, parse_words(arguments))


def parse_words(arguments: Sequence[str]) -> dict[str, Any]:
    """The mapping that `key=value` words say, as `parse_settings` reads them. ValueError: a word without `=`."""
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise ValueError(f"setting {argument!r} is not of the form key=value")
        *above, last = key.split(".")
        try:
            value = _from_text(text)
        except ValueError as error:
            raise ValueError(f"setting {key}: {error}") from error
        values = merge(values, reduce(lambda inner, name: {name: inner}, reversed(above), {last: value}))
    return values

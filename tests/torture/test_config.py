"""Every key of a config with every kind of wrong value: it is taken as its type says, or refused by the key's name."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial, reduce
from itertools import product
from random import Random
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from rl4vlm.config.check import checked_config
from rl4vlm.config.load import merge
from rl4vlm.config.overrides import parse_settings
from rl4vlm.config.schema import ELSEWHERE, SECTIONS, STAGES, ApiModel, Config, Resources, Variant
from rl4vlm.config.settings import plain_settings, settings_class
from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.config.stages.figures import FigureSettings
from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.config.stages.pretrain import PretrainSettings
from rl4vlm.interaction.options import options_of
from rl4vlm.tasks.registry import task_names
from tests.config.test_check import MODEL
from tests.config.test_config_files import resolved
from tests.torture.records import budget, trial

WRONG: list[Any] = [
    *(
        "x",
        "",
        " ",
        "a\0b",
        "\ud800",
        "nan",
        "1e999",
        "true",
        "-1",
        "{}",
        "[",
        "{x",
        "[" * 500,
        "1" * 5000,
        "[" + "1" * 5000,
        "🙂" * 300,
        "${x}",
        "../..",
        "~",
    ),
    *(float("nan"), float("inf"), float("-inf"), -1, -0.5, 0, 3.7, 10**30, 1e300, 10**400, True, None),
    *([], [None], [[1]], ["x", "x"], {}, {"x": 1}, {1: 2}, {None: None}, {"": {}}),
    # What YAML makes of unquoted dates, and of !!binary and !!set.
    *(datetime.date(2026, 11, 28), datetime.datetime(2026, 11, 28, 12), b"x", {"x"}),
]
Key = tuple[str, ...]


def keys(kind: type[Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every setting of a class and of the classes inside it, with its type."""
    hints = get_type_hints(kind)
    for item in fields(kind):
        yield (*above, item.name), hints[item.name]
        if inner := settings_class(hints[item.name]):
            yield from keys(inner, (*above, item.name))


def config_keys() -> list[tuple[Key, Any]]:
    """Every key of a whole config."""
    found = list(keys(Config))
    for name, kind in SECTIONS.items():
        for place in ("defaults", "per_task.NumberLine"):
            own = [key for key in keys(kind) if key[0][0] not in ELSEWHERE.get(name, {})]
            found += [((name, *place.split("."), *key), hint) for key, hint in own]
    others: list[tuple[Any, ...]] = [
        (GamesSettings, "alfworld", "generate"),
        (FigureSettings, "figures", "style"),
        (GallerySettings, "gallery"),
        (ApiModel, "api_models", "m"),
        (Variant, "variants", "v"),
        (Resources, "resources", "ppo"),
    ]
    for other, *above in others:
        found += keys(other, tuple(above))
    return found


KNOWN = task_names()
# One task: each is checked alone.
BASE = merge(
    resolved("default"),
    {"tasks": ["NumberLine"], "api_models": {"m": MODEL}, "variants": {"v": {"ppo": {"gamma": 0.5}}}},
)
KEYS = config_keys()


def with_value(key: Key, value: Any) -> dict[str, Any]:
    """A config in which `value` replaces that of `key`; even a mapping is not merged."""
    config = merge(BASE, {})
    inner = config
    for name in key[:-1]:
        if not isinstance(inner.get(name), dict):
            inner[name] = {}
        inner = inner[name]
    inner[key[-1]] = value
    return config


def kinds(hint: Any) -> set[type]:
    """The plain types that a setting's type names."""
    if get_origin(hint) is Annotated:
        return kinds(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return set().union(*map(kinds, get_args(hint)))
    if settings_class(hint):
        return {dict}
    if origin := get_origin(hint):
        return {list if origin is tuple else dict if origin is dict else type(get_args(hint)[0])}
    return {object if hint is Any else NoneType if hint is None else str if issubclass(hint, str) else hint}


def check_taken(value: Any, taken: Any, hint: Any) -> None:
    """Assert that a value that was taken has its setting's type and still means the same."""
    expected = kinds(hint)
    assert object in expected or type(taken) in expected, f"taken as {taken!r}"
    if isinstance(taken, float | int) and not isinstance(taken, bool):
        assert math.isfinite(taken)
        assert not isinstance(value, bool), "a number from true or false"
        assert float(value) == taken, f"taken as {taken!r}"
    if isinstance(taken, str) and not isinstance(value, datetime.date | bytes):
        assert taken == value, f"taken as {taken!r}"


def refused(error: ValueError, *names: str) -> str:
    """Assert that this is the project's own error, and contains one of `names`."""
    assert type(error) is ValueError, f"a {type(error).__name__}"
    assert any(name in str(error) for name in names), f"{names} are not named: {error}"
    return "were refused, and named"


def check_key(key: Key, hint: Any, value: Any) -> str:
    try:
        typed = checked_config(with_value(key, value), KNOWN, options_of)
    except ValueError as error:
        return refused(error, *key[-2:])
    taken = reduce(lambda inner, name: inner[name], key, typed)
    if key != ("label",):  # the scale's, if it is empty
        check_taken(value, taken, hint)
    return "were taken as its type says"


def check_misspelt(key: Key) -> str:
    wrong = (*key[:-1], key[-1][:-1] + "_" + key[-1][-1:])
    try:
        checked_config(with_value(wrong, 1), KNOWN, options_of)
    except ValueError as error:
        return refused(error, wrong[-1])
    raise AssertionError("a misspelt key was taken")


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, in an order that mixes keys and values."""
    return Random(8).sample(items, min(count, len(items)))


def test_every_key_with_every_wrong_value() -> None:
    pairs = spread(list(product(KEYS, WRONG)), budget(short=150, long=100_000))
    with trial("Configs", f"each of {len(KEYS)} keys of a config, with each of {len(WRONG)} values") as tried:
        for (key, hint), value in pairs:
            tried.attempt(check_key, key, hint, value)


def test_every_key_misspelt() -> None:
    with trial("Configs", "each key, misspelt") as tried:
        for key, _ in spread(KEYS, budget(short=50, long=100_000)):
            tried.attempt(check_misspelt, key)


def check_several(rng: Random) -> str:
    """Some wrong values at once."""
    config = BASE
    for (key, _), value in zip(rng.sample(KEYS, 4), rng.sample(WRONG, 4), strict=True):
        config = merge(config, reduce(lambda inner, name: {name: inner}, reversed(key), value))
    try:
        checked_config(config, KNOWN, options_of)
    except ValueError as error:
        return refused(error, "config, ")
    return "were taken as its type says"


def test_several_keys_at_once() -> None:
    rng = Random(9)
    with trial("Configs", "four random keys at once, with random values") as tried:
        for _ in range(budget(short=50, long=20_000)):
            tried.attempt(check_several, rng)


def check_word(kind: type[Any], required: Mapping[str, Any], key: Key, hint: Any, value: Any) -> str:
    """Check a setting that is typed by hand, `--set key=value`: as it is if it is a text, else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    words = [f"{name}={json.dumps(told)}" for name, told in required.items() if name != key[0]]
    try:
        found = parse_settings(kind, [*words, f"{'.'.join(key)}={text}"])
    except ValueError as error:
        return refused(error, *key)
    taken = reduce(lambda inner, name: inner[name], key, plain_settings(found))
    assert object in kinds(hint) or type(taken) in kinds(hint), f"taken as {taken!r}"
    return "were taken as its type says"


def test_settings_typed_by_hand() -> None:
    typed = [value for value in WRONG if isinstance(value, str | int | float | list | NoneType)]
    with trial("Configs", "each setting of each command, typed by hand (`--set`)") as tried:
        for kind in [*STAGES.values(), GamesSettings, FigureSettings, MemorySettings, PretrainSettings, ApiSettings]:
            check = partial(check_word, kind, MODEL if kind is ApiSettings else {})
            pairs = list(product(keys(kind), typed))
            for (key, hint), value in spread(pairs, budget(short=100, long=100_000)):
                tried.attempt(check, key, hint, value)

"""No number of a config, and none that is typed by hand, may be NaN or infinite."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from rl4vlm.config.load import merge
from rl4vlm.config.overrides import parse_settings, setting_words
from rl4vlm.config.schema import SECTIONS, STAGES, ApiModel, Config
from rl4vlm.config.settings import settings_class
from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.config.stages.figures import FigureSettings
from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.config.stages.pretrain import PretrainSettings
from tests.config.test_check import MODEL, overlay
from tests.config.test_config_files import laid_over

# Where a config holds mappings whose class the type does not name.
PARTS: dict[str, type[Any]] = {
    **{f"{name}.{place}": kind for name, kind in SECTIONS.items() for place in ("defaults", "per_task.NumberLine")},
    "alfworld.generate": GamesSettings,
    "figures.style": FigureSettings,
    "gallery": GallerySettings,
    "api_models.m": ApiModel,
}
UNTYPED = ["task_options.per_task.ALFWorld.env.data", "evaluation.sets.ALFWorld.seen.split", "api_models.m.extra.top_p"]


def numbers(kind: type[Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The places of the numbers in a settings class, each with a function that puts a number there."""
    for name, hint in get_type_hints(kind).items():
        if name in {item.name for item in fields(kind)}:
            inner = settings_class(hint)
            yield from numbers(inner, f"{above}{name}.") if inner else _within(hint, f"{above}{name}")


def _within(hint: Any, place: str) -> Iterator[tuple[str, Any]]:
    parts = get_args(hint)
    if get_origin(hint) is tuple:
        yield from ((where, lambda number, put=put: [put(number)]) for where, put in _within(parts[0], place))
    elif get_origin(hint) is dict:
        key = (get_args(parts[0]) or ["NumberLine"])[0]
        yield from ((where, lambda number, put=put: {key: put(number)}) for where, put in _within(parts[1], place))
    elif hint in (int, float) or (parts and {int, float} & set(parts)):
        yield place, lambda number: number


OWN = dict(numbers(Config))
INSIDE = {f"{above}.{place}": put for above, kind in PARTS.items() for place, put in numbers(kind)}


def complaints(places: Mapping[str, Callable[[Any], Any]], number: Any) -> str:
    """What is said of a config with `number` in all these places at once."""
    told: dict[str, Any] = {"api_models": {"m": MODEL}}
    for place, put in places.items():
        told = merge(told, overlay(place, put(number)))
    with pytest.raises(ValueError, match="config, ") as error:
        laid_over("default", told)
    return str(error.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_in_a_config_is_finite(number: float) -> None:
    places = {**OWN, **INSIDE, **dict.fromkeys(UNTYPED, lambda number: number)}
    assert len(places) > 200
    said = complaints(places, number)
    assert [place for place in places if not re.search(rf"config, {place}[\w.]*={number}: not a finite", said)] == []


@pytest.mark.parametrize("text", ["nan", "inf", "1e999"])
def test_a_text_in_place_of_a_number_is_finite_too(text: str) -> None:
    # Sections are looked into once the rest of the config is right.
    late = {place: put for place, put in INSIDE.items() if place.partition(".")[0] in SECTIONS}
    said = complaints({**OWN, **{k: v for k, v in INSIDE.items() if k not in late}}, text) + complaints(late, text)
    for place in [*OWN, *INSIDE]:
        parts = place.split(".")
        assert re.search(rf"config, (?=.*{parts[-1]}){parts[0]}.*{text}", said), place


@pytest.mark.parametrize("kind", [*STAGES.values(), GamesSettings, FigureSettings, MemorySettings, PretrainSettings])
def test_a_number_typed_by_hand_is_finite(kind: type[Any]) -> None:
    for place, put in numbers(kind):
        for number in ("NaN", "Infinity", '"inf"'):
            word = setting_words({place: put(0)})[0].replace("0", number)
            with pytest.raises(ValueError, match=rf"{place.rpartition('.')[2]}[\w.]*="):
                parse_settings(kind, [word])


def test_a_whole_number_has_63_bits_at_most() -> None:
    said = complaints({**OWN, **INSIDE, **dict.fromkeys(UNTYPED, lambda number: number)}, 10**5000)
    assert [place for place in [*OWN, *INSIDE] if f"config, {place}" not in said] == []
    for number in ("9223372036854775808", "1" * 5000):
        with pytest.raises(ValueError, match=r"setting num_envs"):
            parse_settings(STAGES["ppo"], [f"num_envs={number}"])

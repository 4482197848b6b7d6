"""Invalid settings of an endpoint are refused."""

from __future__ import annotations

from typing import Any

import pytest

from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.api import ApiSettings

GOOD: dict[str, Any] = {"model": "m", "base_url": "https://example.org/v1"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_url": "example.org"}, "base_url 'example.org'"),
        ({"base_url": "https://me:secret@example.org"}, "user name or password"),
        ({"input_price": -1}, "input_price=-1"),
        ({"spending_cap": 1.0}, "never be reached"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0}, "timeout"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"concurency": 3}, "did you mean concurrency"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_settings(ApiSettings, {**GOOD, **wrong})


def test_a_model_and_an_address_are_needed() -> None:
    with pytest.raises(ValueError, match=r"(?s)model.*base_url"):
        build_settings(ApiSettings, {})


@pytest.mark.parametrize("key", ["sk-proj-abcdef", "AIzaSyAbcDef123"])
def test_a_key_in_place_of_its_variable_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="must name an environment variable") as error:
        ApiSettings(**GOOD, key_env=key)
    assert key not in str(error.value)


@pytest.mark.parametrize(
    ("url", "local"), [("http://127.0.0.1:1/v1", True), ("http://localhost/v1", True), ("https://example.org", False)]
)
def test_what_is_local(url: str, local: bool) -> None:
    assert ApiSettings(model="m", base_url=url).is_local is local

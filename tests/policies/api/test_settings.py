"""Invalid settings of an endpoint are refused."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from rl4vlm.config.settings import build_settings, check_some
from rl4vlm.config.stages.api import ApiSettings
from tests.config.test_config_files import laid_over

SECRET = "sk-a-marked-key"
GOOD: dict[str, Any] = {"model": "m", "base_url": "https://example.org/v1"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base_url": "example.org"}, "base_url is not an http address"),
        ({"base_url": "https://example.org/v1/chat/completions/"}, "must end before /chat/completions"),
        ({"base_url": "https://example.org/v1?key=secret"}, "a query"),
        ({"refusal_statuses": [200]}, "refusal_statuses"),
        ({"base_url": "https://me:secret@example.org"}, "a user name, a password"),
        ({"input_price": -1}, "input_price=-1"),
        ({"spending_cap": 1.0}, "never be reached"),
        ({"omit": ["temperature", "model"]}, "omit names model"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 1e300}, "timeout"),
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
    "wrong",
    [
        {"base_url": f"htp://me:{SECRET}@example.org"},
        {"base_url": f"https://me:{SECRET}@example.org/v1"},
        {"base_url": f"https://example.org/v1?key={SECRET}"},
        {"base_url": [SECRET]},
        {"key_env": SECRET},
        {"key_env": [SECRET]},
        {"key_env": {"x": SECRET}},
    ],
    ids=str,
)
def test_a_key_in_a_wrong_place_is_never_shown(wrong: dict[str, Any]) -> None:
    for check in (
        lambda: build_settings(ApiSettings, {**GOOD, **wrong}),
        lambda: check_some(ApiSettings, wrong) and ApiSettings(**{**GOOD, **wrong}),
        lambda: laid_over("default", {"api_models": {"m": {**GOOD, **wrong}}}),
    ):
        with pytest.raises(ValueError, match=r"base_url|key_env") as error:
            check()
        assert SECRET not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    ("url", "local"), [("http://127.0.0.1:1/v1", True), ("http://localhost/v1", True), ("https://example.org", False)]
)
def test_what_is_local(url: str, local: bool) -> None:
    assert ApiSettings(model="m", base_url=url).is_local is local

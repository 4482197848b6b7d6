"""Which models behind endpoints a config evaluates, and with which settings."""

from __future__ import annotations

import itertools
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl4vlm.config.load import (
    API_ENTRY,
    API_PLAY,
    api_settings,
    api_style,
    evaluation_settings,
    http_settings,
)
from rl4vlm.config.overrides import parse_settings, setting_words
from rl4vlm.config.runs import api_runs, evaluation_runs, http_runs
from rl4vlm.config.schema import ApiModel
from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.config.stages.evaluation import VLM_OPTIONS, EvaluationSettings
from tests.config.test_config_files import laid_over

ROOT = Path(__file__).parents[2]

MODEL = {
    "base_url": "https://example.org/v1",
    "model": "m-1",
    "method": "M",
    "key_env": "MADE_UP_KEY",
    "spending_cap": 2.0,
    "concurrency": 8,
    "episodes": 20,
    "temperature": 0.5,
    "tasks": ["NumberLine"],
    "style": "nocot",
}
CONFIG: dict[str, Any] = {
    "results_dir": "results",
    "tasks": ["NumberLine", "Blackjack"],
    "styles": ["cot", "nocot"],
    "seeds": [3, 4],
    "ppo": {"defaults": {"thought_prob_coef": 0.5}, "per_task": {}},
    "evaluation": {
        "defaults": {"episodes": 200, "num_envs": 64, "temperature": 0.2, "api": {"timeout": 9}},
        "per_task": {},
    },
    "over_http": {"tasks": ["Blackjack"], "episodes": 5, "concurrency": 2},
    "api_models": {"m": MODEL, "local": {"base_url": "http://localhost/v1", "model": "q"}},
}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MADE_UP_KEY", raising=False)
    monkeypatch.chdir(tmp_path)


def names() -> list[str]:
    return [run.name for run in api_runs(CONFIG)]


def test_a_model_without_a_key_is_left_out() -> None:
    assert names() == ["api-local-NumberLine", "api-local-Blackjack"]


def test_it_plays_every_set_of_games() -> None:
    sets = {"Blackjack": {"seen": {"split": "seen"}, "unseen": {"split": "unseen"}}}
    config = {**CONFIG, "evaluation": {**CONFIG["evaluation"], "sets": sets}}
    runs = [(run.name, run.task, run.games) for run in api_runs(config) if run.task == "Blackjack"]
    assert runs == [("api-local-Blackjack", "Blackjack", ""), ("api-local-Blackjack@unseen", "Blackjack", "unseen")]
    assert api_settings(config, "local", "Blackjack")["env"] == {"split": "seen"}
    assert api_settings(config, "local", "Blackjack", "unseen")["env"] == {"split": "unseen"}


def test_with_its_key_it_is_evaluated_on_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_UP_KEY", "secret")
    assert names()[0] == "api-m-NumberLine"
    assert "api-m-Blackjack" not in names()
    assert [run.name for run in evaluation_runs(CONFIG)][-3:] == names()
    assert (api_runs(CONFIG)[0].kind, api_runs(CONFIG)[0].style) == ("api", "nocot")


def test_a_result_is_shown_without_a_key() -> None:
    summary = Path("results", "eval", "api-m-NumberLine", "summary.json")
    summary.parent.mkdir(parents=True)
    summary.touch()
    assert names()[0] == "api-m-NumberLine"


def test_an_entry_goes_over_the_stages_settings() -> None:
    assert api_settings(CONFIG, "m", "NumberLine") == {
        "episodes": 20,
        "num_envs": 8,
        "temperature": 0.5,
        "api": {
            "timeout": 9,
            "cache": "results/api_cache",
            "base_url": "https://example.org/v1",
            "model": "m-1",
            "method": "M",
            "key_env": "MADE_UP_KEY",
            "spending_cap": 2.0,
            "concurrency": 8,
        },
    }
    assert api_settings(CONFIG, "local", "NumberLine")["num_envs"] == 64
    assert (api_style(CONFIG, "m"), api_style(CONFIG, "local")) == ("nocot", "cot")


def test_the_settings_pass_through_a_command_line() -> None:
    settings = api_settings(CONFIG, "m", "NumberLine")
    words = [*setting_words(settings), "api.spending_cap=7", "episodes=3"]
    parsed = parse_settings(EvaluationSettings, words)
    assert (parsed.episodes, parsed.num_envs) == (3, 8)
    assert parsed.api == {**settings["api"], "spending_cap": 7}


@pytest.mark.parametrize(
    ("models", "message"), [({}, "no model 'x'; there are none yet"), ({"m": MODEL}, "no model 'x'; there are m ")]
)
def test_a_model_without_an_entry_is_named(models: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        api_settings({**CONFIG, "api_models": models}, "x", "NumberLine")


def test_the_first_main_run_of_a_task_is_asked_over_http() -> None:
    assert [run.name for run in http_runs(CONFIG)] == ["Blackjack-cot-lambda0.5-seed3"]
    assert [run.name for run in evaluation_runs(CONFIG) if run.kind == "http"] == ["http-Blackjack-cot-lambda0.5-seed3"]
    assert http_runs({**CONFIG, "over_http": {"tasks": []}}) == []
    assert http_runs({**CONFIG, "tasks": ["NumberLine"]}) == []
    settings = http_settings(CONFIG, "Blackjack")
    assert (settings["episodes"], settings["temperature"]) == (5, 0.2)
    assert settings["api"] == {"timeout": 9, "cache": "results/api_cache", "concurrency": 2}


def test_settings_of_a_model_in_this_process_are_not_sent_to_one_over_http() -> None:
    models = {"local": {"base_url": "http://localhost:1/v1", "model": "a/b"}}
    config = laid_over("paper", {"api_models": models, "over_http": {"tasks": ["NumberLine"]}})
    assert evaluation_settings(config, "NumberLine")["one_view"]
    for settings in (api_settings(config, "local", "NumberLine"), http_settings(config, "NumberLine")):
        assert not set(VLM_OPTIONS) & set(settings)
        # The policy refuses every option that it has no use for.
        assert not set(VLM_OPTIONS) & set(build_settings(EvaluationSettings, settings).loading)


def test_null_for_the_tasks_of_a_model_is_all_of_them() -> None:
    entry = {"model": "m", "base_url": "http://h/v1", "tasks": None}
    config = laid_over("default", {"api_models": {"x": entry}})
    assert {run.task for run in api_runs(config)} == set(config["tasks"])


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["RL4VLM"], "method 'RL4VLM' is that of a policy of this project"),
        (["A", "A"], "api_models.m1: method 'A' is that of m0, too"),
        (["A", "m0"], None),
        (["GPT4-V"], None),
    ],
)
def test_a_row_of_the_tables_is_of_one_method(methods: list[str], said: str | None) -> None:
    entries = {f"m{n}": {"model": "m", "base_url": "http://h/v1", "method": name} for n, name in enumerate(methods)}
    if said is None:
        laid_over("default", {"api_models": entries})
    else:
        with pytest.raises(ValueError, match=said):
            laid_over("default", {"api_models": entries})


def test_the_examples_of_the_config_are_valid() -> None:
    text = (ROOT / "config" / "config.yaml").read_text()
    start = "api_models: {}\n"
    assert text.count(start) == 1
    lines = text.partition(start)[2].splitlines()
    commented = [line.removeprefix("#") for line in itertools.takewhile(lambda line: line.startswith("#  "), lines)]
    models = yaml.safe_load("\n".join(commented))
    assert set(models) == {"gpt-4o", "gemini", "claude", "qwen"}
    config = laid_over("default", {"api_models": models})
    for model in models:
        settings = parse_settings(EvaluationSettings, setting_words(api_settings(config, model, "NumberLine")))
        build_settings(ApiSettings, settings.api)


def test_an_entry_may_set_what_it_says_of_an_evaluation() -> None:
    names = {item.name for item in fields(ApiModel)}
    assert names == {item.name for item in fields(ApiSettings)} | set(API_ENTRY) | set(API_PLAY)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base_url": "http://[::1/v1"}, "base_url is not an http address"),
        ({"base_url": "http://host:99999/v1"}, "base_url is not an http address"),
        ({"extra": {"day": date(2001, 1, 1)}}, "extra.day=2001-01-01: a date"),
    ],
)
def test_what_no_request_can_hold_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_settings(ApiSettings, {"model": "m", "base_url": "http://host/v1", **changed})

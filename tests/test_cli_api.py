"""Models of the config on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rl4vlm.cli import main
from tests.policies.api.endpoint import Endpoint, completion, serving


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MADE_UP_KEY", raising=False)


def write_config(url: str) -> None:
    model = {"base_url": url, "model": "m", "key_env": "MADE_UP_KEY", "method": "M", "episodes": 3, "concurrency": 1}
    config = {
        "results_dir": "results",
        "evaluation": {"defaults": {"num_envs": 9}, "per_task": {}},
        "api_models": {"mine": {**model, "input_price": 1.0}},
    }
    Path("config").mkdir()
    Path("config", "config.yaml").write_text(yaml.safe_dump(config))


def test_a_model_of_the_config_is_evaluated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MADE_UP_KEY", "secret")
    with serving(Endpoint(say=lambda body: completion('{"action": "+"}'))) as endpoint:
        write_config(endpoint.url)
        assert main(["evaluate", "api:mine", "NumberLine"]) == 0
        summary = json.loads(Path("evaluation", "api-mine-NumberLine", "summary.json").read_text())
        assert (summary["method"], summary["episodes"]) == ("M", 3)
        assert len(list(Path("results", "api_cache").rglob("*.json"))) == summary["api"]["requests"]
        asked = len(endpoint.asked)
        cap = summary["api"]["cost_usd"] * 0.8
        assert main(["evaluate", "api:mine", "NumberLine", "--set", f"api.spending_cap={cap}"]) == 0
        assert len(endpoint.asked) == asked
    assert "This is a partial result, of 3 episodes: the rest of the spending cap" in capsys.readouterr().out


def test_a_model_plays_in_the_style_of_its_entry_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_UP_KEY", "secret")
    with serving(Endpoint(say=lambda body: completion('{"action": "+"}'))) as endpoint:
        write_config(endpoint.url)
        config = yaml.safe_load(Path("config", "config.yaml").read_text())
        config["api_models"]["mine"]["style"] = "nocot"
        Path("config", "config.yaml").write_text(yaml.safe_dump(config))
        for out, words in (("own", []), ("told", ["--style", "cot"])):
            assert main(["evaluate", "api:mine", "NumberLine", "--out", out, *words]) == 0
    styles = [json.loads(Path(out, "summary.json").read_text())["style"] for out in ("own", "told")]
    assert styles == ["nocot", "cot"]


def test_without_a_key_the_error_names_the_variable(capsys: pytest.CaptureFixture[str]) -> None:
    write_config("http://127.0.0.1:9/v1")
    assert main(["evaluate", "api:mine", "NumberLine"]) == 2
    assert "set the environment variable MADE_UP_KEY" in capsys.readouterr().err


def test_an_unknown_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write_config("http://127.0.0.1:9/v1")
    assert main(["evaluate", "api:yours", "NumberLine"]) == 2
    assert "no model 'yours'; there are mine" in capsys.readouterr().err


def test_a_model_can_be_described_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Endpoint(say=lambda body: completion('{"action": "+"}'))) as endpoint:
        api = json.dumps({"base_url": endpoint.url, "model": "m", "cache": "cache"})
        assert main(["evaluate", "api:free", "NumberLine", "--set", "episodes=1", f"api={api}"]) == 0
    assert capsys.readouterr().out.startswith("free on NumberLine")

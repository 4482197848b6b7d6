"""How an evaluation handles every way in which an endpoint can fail."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.cli import main
from rl4vlm.config.overrides import setting_words
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.types import Style
from rl4vlm.evaluation.run import run
from rl4vlm.policies.api.client import ApiError
from tests.policies.api.endpoint import KEY, Endpoint, completion, serving


def evaluate(endpoint: Endpoint, folder: Path, out: str = "out", **changes: Any) -> dict[str, Any]:
    api = {
        "model": "m",
        "base_url": endpoint.url,
        "cache": str(folder / "cache"),
        "key_env": "MADE_UP_KEY",
        "max_retries": 0,
        "concurrency": 2,
        **changes.pop("api", {}),
    }
    settings = EvaluationSettings(**{"episodes": 8, "num_envs": 2, "temperature": 0.2, **changes, "api": api})
    return run(policy="api:model", task="NumberLine", style=Style.COT, out=folder / out, settings=settings)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MADE_UP_KEY", KEY)
    return KEY


def forward(body: Mapping[str, Any]) -> dict[str, Any]:
    """A reply to NumberLine that wins some episodes."""
    return completion('{"thoughts": "on", "action": "+"}')


@pytest.mark.usefixtures("key")
class TestEvaluation:
    def test_totals_are_in_the_summary(self, tmp_path: Path) -> None:
        with serving(Endpoint(completion(None, usage=None), say=forward)) as endpoint:
            summary = evaluate(endpoint, tmp_path, api={"input_price": 1.0, "output_price": 2.0, "method": "GPT-4o"})
        assert (summary["method"], summary["kind"], summary["partial"]) == ("GPT-4o", "api", False)
        totals = summary["api"]
        steps = round(summary["mean_length"] * 8)
        assert totals["replies"] == {"empty": 1, "ok": steps - 1}
        assert summary["outcomes"] == {"no_action_key": 1, "ok": steps - 1}
        assert totals["output_tokens"] == 10 * (steps - 1)
        assert totals["requests"] == steps
        assert summary["reply_tokens"] == 10

    def test_the_cap_ends_it_with_the_episodes_before(self, tmp_path: Path) -> None:
        prices = {"input_price": 1.0, "output_price": 0.0}  # 100 input tokens: 0.0001 dollars
        with serving(Endpoint(say=forward)) as endpoint:
            whole = evaluate(endpoint, tmp_path, "whole", api=prices)
            cap = whole["api"]["cost_usd"] * 0.8
            part = evaluate(endpoint, tmp_path, "part", api={**prices, "spending_cap": cap})
        assert part["partial"] is True
        assert part["stopped"] == "the rest of the spending cap was kept for the episodes that were running"
        assert 2 < part["episodes"] < 8
        # Every paid reply belongs to a finished episode.
        assert part["api"]["requests"] == sum(line["length"] for line in lines_of(tmp_path / "part"))
        assert part["api"]["cost_usd"] <= cap
        assert lines_of(tmp_path / "part") == lines_of(tmp_path / "whole")[: part["episodes"]]

    def test_a_higher_cap_continues_from_there(self, tmp_path: Path) -> None:
        prices = {"input_price": 1.0, "output_price": 0.0}
        with serving(Endpoint(say=forward)) as endpoint:
            part = evaluate(endpoint, tmp_path, api={**prices, "spending_cap": 0.003})
            asked = len(endpoint.asked)
            whole = evaluate(endpoint, tmp_path, api=prices)
        assert part["partial"]
        assert asked <= 30
        assert len(endpoint.asked) == whole["api"]["requests"]

    def test_a_cap_below_one_episode_is_an_error(self, tmp_path: Path) -> None:
        with serving(Endpoint(say=forward)) as endpoint, pytest.raises(ValueError, match=r"not one episode.*cap"):
            evaluate(endpoint, tmp_path, api={"input_price": 1.0, "spending_cap": 0.00015})

    @pytest.mark.parametrize(("said", "enough"), [(None, False), ("I cannot see any picture.", True)])
    def test_without_one_reply_with_text_it_is_an_error(self, said: str | None, enough: bool, tmp_path: Path) -> None:
        with serving(Endpoint(say=lambda _: completion(said, finish="length"))) as endpoint:
            if enough:
                assert evaluate(endpoint, tmp_path)["fallback_rate"] == 1
                return
            with pytest.raises(ApiError, match=r"gave no reply with text \(\d+ empty\).*max_new_tokens"):
                evaluate(endpoint, tmp_path)
        assert not (tmp_path / "out" / "summary.json").exists()

    def test_refusals_alone_are_a_result(self, tmp_path: Path) -> None:
        with serving(Endpoint(say=lambda _: completion(None, refusal="No."))) as endpoint:
            summary = evaluate(endpoint, tmp_path)
        assert set(summary["api"]["replies"]) == {"refusal"}
        assert summary["fallback_rate"] == 1

    def test_the_key_is_sent_and_written_nowhere(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others = {
            "OPENAI_API_KEY": f"{KEY}-other",
            "OPENAI_ADMIN_KEY": f"{KEY}-admin",
            "OPENAI_ORG_ID": f"{KEY}-organisation",
            "OPENAI_PROJECT_ID": f"{KEY}-project",
            "OPENAI_CUSTOM_HEADERS": f"Authorization: Bearer {KEY}-header\nX-Mine: {KEY}-mine",
        }
        for variable, value in others.items():
            monkeypatch.setenv(variable, value)

        def echo(body: Mapping[str, Any]) -> dict[str, Any]:
            return completion(f'your key is {endpoint.keys[-1]} "action": "+"')

        with serving(Endpoint(say=echo)) as endpoint:
            evaluate(endpoint, tmp_path)
            endpoint.plan = [401]
            endpoint.error = {"error": {"message": f"Incorrect API key: {KEY}"}}
            with pytest.raises(ApiError, match=r"Incorrect API key: \[key\]") as error:
                evaluate(endpoint, tmp_path, seed_base=5)
        assert set(endpoint.keys) == {f"Bearer {KEY}"}
        sent = [
            value for headers in endpoint.headers for name, value in headers.items() if name.lower() != "authorization"
        ]
        assert sent
        assert not any(KEY in value for value in sent)
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert len(files) > 8
        written = "".join(file.read_text(errors="replace") for file in files)
        assert "your key is Bearer [key]" in written
        assert KEY not in written + "".join(capfd.readouterr()) + str(error.value)


def test_a_dummy_key_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_UP_KEY", "action")
    with serving(Endpoint(say=lambda _: completion('"action": "+"'))) as endpoint:
        evaluate(endpoint, tmp_path)
    assert "[key]" not in (tmp_path / "out" / "episodes.jsonl").read_text()


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


def test_a_killed_run_continues_where_it_was(tmp_path: Path) -> None:
    def command(folder: str, endpoint: Endpoint) -> list[str]:
        api = {"model": "m", "base_url": endpoint.url, "cache": str(tmp_path / folder / "cache"), "concurrency": 2}
        words = setting_words({"episodes": 8, "num_envs": 2, "temperature": 0.0, "api": api})
        return ["evaluate", "api:model", "NumberLine", "--out", str(tmp_path / folder), "--set", *words]

    with serving(Endpoint(*[None] * 7, *["hang"] * 100, say=forward)) as endpoint:
        killed = [sys.executable, "-m", "rl4vlm.cli", *command("killed", endpoint)]
        process = subprocess.Popen(killed, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: len(endpoint.asked) >= 8)
            wait_for(lambda: len(list((tmp_path / "killed" / "cache").rglob("[!.]*.json"))) == 7)
        finally:
            process.kill()
            process.wait()
        assert not (tmp_path / "killed" / "summary.json").exists()
        endpoint.plan = []
        before = [json.dumps(body) for body in endpoint.answered]
        assert main(command("killed", endpoint)) == 0
        after = [json.dumps(body) for body in endpoint.answered[7:]]
        assert len(before) == 7
        assert not set(before) & set(after)
        assert main(command("fresh", endpoint)) == 0
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "fresh")


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

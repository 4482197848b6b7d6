"""How the policy and an evaluation handle every way in which an endpoint can fail."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.config.overrides import setting_words
from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.types import Request, Style
from rl4vlm.evaluation.run import run
from rl4vlm.policies.api import client
from rl4vlm.policies.api.cache import Stored
from rl4vlm.policies.api.client import ApiError
from rl4vlm.policies.api.policy import ApiPolicy
from tests.fakes import climb_slot
from tests.policies.api.endpoint import REPLY, Endpoint, completion, serving

OPEN = ExitStack()
KEY = "sk-a-very-secret-key-0123456789"


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    yield
    OPEN.close()


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_WAIT", 0.0)


def policy_for(endpoint: Endpoint, folder: Path, temperature: float = 0.2, **changes: Any) -> ApiPolicy:
    settings = {"model": "m", "base_url": endpoint.url, "cache": str(folder / "cache"), "max_retries": 2, **changes}
    policy = ApiPolicy("model", build_settings(ApiSettings, settings), temperature=temperature, max_new_tokens=50)
    OPEN.callback(policy.close)
    return policy


def requests(count: int, seed: int = 1) -> list[Request]:
    """One request from each of `count` episodes; several show the same image."""
    found = [climb_slot(seed + place, endless=False).request for place in range(count)]
    return [request for request in found if request is not None]


def texts(policy: ApiPolicy, asked: list[Request]) -> list[str]:
    return [reply.text for reply in policy.act(asked)]


class TestTemporaryFailures:
    """A temporary failure is retried and does not show in the replies."""

    @pytest.mark.parametrize(
        ("fault", "wait"), [(429, 0.4), (500, 0.3), (503, 0.3), ("reset", 0.3), ("hang", 0.3)], ids=str
    )
    def test_it_is_tried_again(self, fault: Any, wait: float, tmp_path: Path) -> None:
        with serving(Endpoint(fault)) as endpoint:
            policy = policy_for(endpoint, tmp_path, timeout=0.3)
            assert texts(policy, requests(1)) == [REPLY]
        assert len(endpoint.asked) == 2
        assert endpoint.asked[0] == endpoint.asked[1]
        assert endpoint.times[1] - endpoint.times[0] >= wait
        assert (policy.totals()["retries"], policy.totals()["replies"]) == (1, {"ok": 1})

    def test_the_endpoint_says_how_long_to_wait(self, tmp_path: Path) -> None:
        with serving(Endpoint(429)) as endpoint:
            endpoint.retry_after = "1.2"
            texts(policy_for(endpoint, tmp_path), requests(1))
        assert 1.2 <= endpoint.times[1] - endpoint.times[0] < 3


HALF = '{"choices": [{"index": 0, "mess'
UNREADABLE = [
    HALF,
    "",
    "<html>Bad gateway</html>",
    {"choices": []},
    {"error": {"message": "busy"}},
    [1],
    {"choices": [3]},
]


class TestUnreadableAnswers:
    """What is no readable completion is asked for again, and never stored."""

    @pytest.mark.parametrize("fault", UNREADABLE, ids=str)
    def test_it_is_tried_again(self, fault: Any, tmp_path: Path, no_wait: None) -> None:
        with serving(Endpoint(fault)) as endpoint:
            policy = policy_for(endpoint, tmp_path)
            assert texts(policy, requests(1)) == [REPLY]
        assert (policy.totals()["retries"], policy.totals()["replies"]) == (1, {"ok": 1})

    @pytest.mark.parametrize("fault", UNREADABLE, ids=str)
    def test_in_the_end_it_is_an_error_and_the_next_run_asks_again(
        self, fault: Any, tmp_path: Path, no_wait: None
    ) -> None:
        with serving(Endpoint(*[fault] * 3)) as endpoint:
            with pytest.raises(
                ApiError, match=r"'model' at .*: no readable completion after 2 retries.*the same again"
            ):
                policy_for(endpoint, tmp_path).act(requests(1))
            assert len(endpoint.asked) == 3
            assert not list((tmp_path / "cache").rglob("*.json"))
            assert texts(policy_for(endpoint, tmp_path), requests(1)) == [REPLY]

    def test_one_that_an_earlier_version_stored_is_asked_again(self, tmp_path: Path) -> None:
        with serving(Endpoint()) as endpoint:
            policy = policy_for(endpoint, tmp_path)
            policy.cache.put(policy._question(requests(1)[0]).key, "", {}, 0, Stored(200, HALF))
            assert texts(policy, requests(1)) == [REPLY]
            assert texts(policy_for(endpoint, tmp_path), requests(1)) == [REPLY]
        assert len(endpoint.asked) == 1


class TestRepliesWithoutText:
    """An answer without text gives an empty reply, is counted by its kind, and is stored."""

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            (completion(None), "empty"),
            (completion(None, refusal="No."), "refusal"),
            ({"error": {"message": "no", "code": "content_filter"}}, "refusal"),
        ],
        ids=["no text", "refusal", "an error that refuses"],
    )
    def test_it_is_counted_and_not_asked_again(self, fault: Any, kind: str, tmp_path: Path) -> None:
        with serving(Endpoint(fault)) as endpoint:
            policy = policy_for(endpoint, tmp_path, concurrency=1)
            assert texts(policy, requests(2)) == ["", REPLY]
            assert policy.totals()["replies"] == dict(sorted({kind: 1, "ok": 1}.items()))
            assert texts(policy_for(endpoint, tmp_path), requests(2)) == ["", REPLY]
        assert len(endpoint.asked) == 2

    @pytest.mark.parametrize(
        ("status", "error", "settings"),
        [
            (400, {"code": "content_filter"}, {}),
            (400, {"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, {}),
            (403, {"type": "safety"}, {"refusal_codes": ["safety"]}),
            (451, {}, {"refusal_statuses": [451]}),
            (500, {"code": "safety"}, {"refusal_codes": ["safety"], "max_retries": 0}),
        ],
    )
    def test_a_request_refused_for_its_content_is_a_refusal(
        self, status: int, error: dict[str, Any], settings: dict[str, Any], tmp_path: Path
    ) -> None:
        with serving(Endpoint(status)) as endpoint:
            endpoint.error = {"error": {"message": "no", **error}}
            policy = policy_for(endpoint, tmp_path, **settings)
            assert texts(policy, requests(1)) == [""]
            # It is stored: it would block every further run otherwise.
            assert texts(policy_for(endpoint, tmp_path, **settings), requests(1)) == [""]
        assert policy.totals()["replies"] == {"refusal": 1}
        assert len(endpoint.asked) == 1


class TestPermanentFailures:
    """A failure that stays raises an error that names the endpoint and says how to continue."""

    @pytest.mark.parametrize(
        ("status", "advice"),
        [(400, "the settings of the model"), (401, "the key in None"), (404, "the model's name 'm' and the path")],
    )
    def test_a_refused_request_is_not_repeated(self, status: int, advice: str, tmp_path: Path) -> None:
        with serving(Endpoint(status)) as endpoint:
            policy = policy_for(endpoint, tmp_path)
            with pytest.raises(
                ApiError, match=rf"'model' at {endpoint.url}: HTTP {status}.*made up.*{advice}"
            ) as error:
                policy.act(requests(1))
        assert len(endpoint.asked) == 1
        assert "the same again" not in str(error.value)

    def test_an_address_without_v1_is_explained(self, tmp_path: Path) -> None:
        with serving(Endpoint(404)) as endpoint:
            policy = policy_for(endpoint, tmp_path, base_url=endpoint.url.removesuffix("/v1"))
            with pytest.raises(ApiError, match=r"HTTP 404.*base_url has no /v1"):
                policy.act(requests(1))

    @pytest.mark.parametrize("key", ["sk-first\nsk-second", "sk-schlüssel", "sk-\x7f"])
    def test_a_key_that_no_header_can_hold_is_refused_unshown(
        self, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MADE_UP_KEY", key)
        with serving(Endpoint()) as endpoint:
            policy = policy_for(endpoint, tmp_path, key_env="MADE_UP_KEY")
            with pytest.raises(ApiError, match=r"the key in MADE_UP_KEY holds a line break.*not sent") as error:
                policy.act(requests(1))
        assert endpoint.asked == []
        assert "sk-" not in "".join(traceback.format_exception(error.value))

    @pytest.mark.parametrize(
        ("fault", "message"),
        [(500, "HTTP 500"), ("hang", "no answer within 0.2 s, after 1 retries"), ("reset", "no connection")],
    )
    def test_after_the_last_retry_it_is_an_error(self, fault: Any, message: str, tmp_path: Path) -> None:
        with serving(Endpoint(fault, fault)) as endpoint, pytest.raises(ApiError, match=message):
            policy_for(endpoint, tmp_path, max_retries=1, timeout=0.2).act(requests(1))

    def test_other_answers_are_stored(self, tmp_path: Path) -> None:
        with serving(Endpoint(None, None, 401)) as endpoint:
            with pytest.raises(ApiError, match="401"):
                policy_for(endpoint, tmp_path, concurrency=1).act(requests(5))
            assert texts(policy_for(endpoint, tmp_path, concurrency=1), requests(5)) == [REPLY] * 5
        assert len(endpoint.asked) == 3 + 3

    def test_a_missing_key_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MADE_UP_KEY", raising=False)
        with serving(Endpoint()) as endpoint:
            policy = policy_for(endpoint, tmp_path, key_env="MADE_UP_KEY")
            with pytest.raises(ValueError, match="'model' needs a key: set the environment variable MADE_UP_KEY"):
                policy.act(requests(1))
        assert endpoint.asked == []


class TestCache:
    def test_a_rerun_asks_nothing_and_needs_no_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MADE_UP_KEY", KEY)
        with serving(Endpoint()) as endpoint:
            first = policy_for(endpoint, tmp_path, key_env="MADE_UP_KEY", input_price=1.0)
            said = texts(first, requests(6))
            monkeypatch.delenv("MADE_UP_KEY")
            again = policy_for(endpoint, tmp_path, key_env="MADE_UP_KEY", input_price=1.0)
            assert texts(again, requests(6)) == said
        assert len(endpoint.asked) == 6
        assert again.totals()["cost_usd"] == first.totals()["cost_usd"] == pytest.approx(6 * 100 / 1e6)
        assert (again.totals()["new_requests"], again.totals()["new_cost_usd"]) == (0, 0.0)

    def test_a_sample_is_drawn_for_each_episode_and_not_for_each_order(self, tmp_path: Path) -> None:
        with serving(Endpoint()) as endpoint:
            texts(policy_for(endpoint, tmp_path), requests(6))
            texts(policy_for(endpoint, tmp_path), requests(6)[::-1])
            assert len(endpoint.asked) == 6
            texts(policy_for(endpoint, tmp_path), requests(1, seed=100))
        assert len(endpoint.asked) == 7

    def test_without_sampling_a_question_is_asked_once(self, tmp_path: Path) -> None:
        with serving(Endpoint()) as endpoint:
            policy = policy_for(endpoint, tmp_path, temperature=0.0)
            assert texts(policy, requests(12)) == [REPLY] * 12
            assert texts(policy, requests(12)) == [REPLY] * 12
        distinct = {request.image.tobytes() + request.prompt.encode() for request in requests(12)}
        assert len(endpoint.asked) == len(distinct) < 12
        assert policy.totals()["requests"] == len(distinct)
        assert policy.totals()["replies"] == {"ok": 24}

    def test_the_whole_exchange_is_on_disk(self, tmp_path: Path) -> None:
        with serving(Endpoint()) as endpoint:
            texts(policy_for(endpoint, tmp_path), requests(1))
        (file,) = (tmp_path / "cache").rglob("*.json")
        exchange = json.loads(file.read_text())
        assert exchange["request"] == endpoint.asked[0]
        assert json.loads(exchange["response"]["text"]) == completion()

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        with serving(Endpoint()) as endpoint:
            texts(policy_for(endpoint, tmp_path), requests(1))
            (file,) = (tmp_path / "cache").rglob("*.json")
            file.write_text(file.read_text()[:-20])
            with pytest.raises(ValueError, match=f"{file.name} is damaged"):
                texts(policy_for(endpoint, tmp_path), requests(1))


class TestConcurrencyAndRate:
    def test_requests_are_under_way_together_but_not_more_than_allowed(self, tmp_path: Path) -> None:
        def slowly(body: Mapping[str, Any]) -> dict[str, Any]:
            time.sleep(0.1)
            return completion()

        with serving(Endpoint(say=slowly)) as endpoint:
            texts(policy_for(endpoint, tmp_path, concurrency=3), requests(9))
        assert endpoint.most_under_way == 3

    def test_the_rate_is_kept(self, tmp_path: Path) -> None:
        with serving(Endpoint()) as endpoint:
            texts(policy_for(endpoint, tmp_path, concurrency=4, requests_per_minute=600), requests(5))
        assert max(endpoint.times) - min(endpoint.times) >= 4 * 0.1 - 0.05

    def test_replies_come_in_the_order_of_their_requests(self, tmp_path: Path) -> None:
        def floor_of(body: Mapping[str, Any]) -> dict[str, Any]:
            text = body["messages"][0]["content"][1]["text"]
            time.sleep(0.05 if "floor 0" in text else 0.0)
            return completion(text)

        asked = requests(6)
        with serving(Endpoint(say=floor_of)) as endpoint:
            assert texts(policy_for(endpoint, tmp_path), asked) == [request.prompt for request in asked]


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


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


def test_a_killed_run_continues_where_it_was(tmp_path: Path) -> None:
    def command(folder: str, endpoint: Endpoint) -> list[str]:
        api = {"model": "m", "base_url": endpoint.url, "cache": str(tmp_path / folder / "cache"), "concurrency": 2}
        words = setting_words({"episodes": 8, "num_envs": 2, "temperature": 0.0, "api": api})
        start = "import sys; from rl4vlm.cli import main; sys.exit(main(sys.argv[1:]))"
        out = str(tmp_path / folder)
        return [sys.executable, "-c", start, "evaluate", "api:model", "NumberLine", "--out", out, "--set", *words]

    with serving(Endpoint(*[None] * 7, *["hang"] * 100, say=forward)) as endpoint:
        process = subprocess.Popen(command("killed", endpoint), stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: len(endpoint.asked) >= 8)
            wait_for(lambda: len(list((tmp_path / "killed" / "cache").rglob("[!.]*.json"))) == 7)
        finally:
            process.kill()
            process.wait()
        assert not (tmp_path / "killed" / "summary.json").exists()
        endpoint.plan = []
        before = [json.dumps(body) for body in endpoint.answered]
        subprocess.run(command("killed", endpoint), check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        after = [json.dumps(body) for body in endpoint.answered[7:]]
        assert len(before) == 7
        assert not set(before) & set(after)
        subprocess.run(command("fresh", endpoint), check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "fresh")


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

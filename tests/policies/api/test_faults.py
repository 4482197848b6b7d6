"""How the policy handles every way in which an endpoint can fail."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.core.types import Request
from rl4vlm.policies.api import client
from rl4vlm.policies.api import policy as policy_module
from rl4vlm.policies.api.cache import Stored
from rl4vlm.policies.api.client import ApiError
from rl4vlm.policies.api.policy import ApiPolicy
from tests.fakes import climb_slot
from tests.policies.api.endpoint import KEY, REPLY, Endpoint, completion, serving

OPEN = ExitStack()


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
        ("fault", "wait"), [(429, 0.4), (425, 0.3), (500, 0.3), (503, 0.3), ("reset", 0.3), ("hang", 0.3)], ids=str
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

    def test_it_is_one_only_under_settings_that_say_so(self, tmp_path: Path) -> None:
        """If `refusal_statuses` named a status by mistake, its cached answers must not stay refusals."""
        with serving(Endpoint(404)) as endpoint:
            assert texts(policy_for(endpoint, tmp_path, refusal_statuses=[404]), requests(1)) == [""]
            assert texts(policy_for(endpoint, tmp_path), requests(1)) == [REPLY]


class TestPermanentFailures:
    """A failure that stays raises an error that names the endpoint and says how to continue."""

    @pytest.mark.parametrize(
        ("status", "advice"),
        [
            (400, "the settings of the model"),
            (401, "name the variable that holds a key in key_env"),
            (404, "the model's name 'm' and the path"),
            (405, "the settings of the model"),
            (501, "the settings of the model"),
            (505, "the settings of the model"),
        ],
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

    def test_a_broken_proxy_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("https_proxy", "http://proxy:port")
        with serving(Endpoint()) as endpoint, pytest.raises(ApiError, match="https_proxy"):
            policy_for(endpoint, tmp_path, base_url="https://models.example/v1")


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

    @pytest.mark.parametrize(
        "harm",
        [
            lambda text: text[:-20],
            lambda text: text.replace("assistant", "assistent"),
            lambda text: text.replace('"status": 200', '"status": NaN'),
            lambda text: text.replace('"temperature": 0.5', '"temperature": 0.4'),
            lambda text: "[" * 100_000,
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path: Path, harm: Callable[[str], str]) -> None:
        with serving(Endpoint()) as endpoint:
            texts(policy_for(endpoint, tmp_path, temperature=0.5), requests(1))
            (file,) = (tmp_path / "cache").rglob("*.json")
            harmed = harm(file.read_text())
            assert harmed != file.read_text()
            file.write_text(harmed)
            with pytest.raises(ValueError, match=f"{file.name} is damaged"):
                texts(policy_for(endpoint, tmp_path, temperature=0.5), requests(1))

    def test_a_file_of_an_earlier_version_has_no_checksum(self, tmp_path: Path) -> None:
        with serving(Endpoint()) as endpoint:
            texts(policy_for(endpoint, tmp_path), requests(1))
            (file,) = (tmp_path / "cache").rglob("*.json")
            exchange = json.loads(file.read_text())
            del exchange["sha256"]
            file.write_text(json.dumps(exchange))
            assert texts(policy_for(endpoint, tmp_path), requests(1)) == [REPLY]
        assert len(endpoint.asked) == 1


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


class TestInterruption:
    def test_the_answer_under_way_is_stored_and_nothing_more_is_sent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def slowly(body: Mapping[str, Any]) -> dict[str, Any]:
            time.sleep(0.3)
            return completion()

        def interrupted(*_: Any, **__: Any) -> None:
            while len(endpoint.asked) < 2:
                time.sleep(0.01)
            raise KeyboardInterrupt

        monkeypatch.setattr(policy_module, "wait", interrupted)
        with serving(Endpoint(503, say=slowly)) as endpoint:
            policy = policy_for(endpoint, tmp_path, concurrency=2, max_retries=9)
            with pytest.raises(KeyboardInterrupt):
                policy.act(requests(5))
            assert len(endpoint.asked) == 2  # neither the one that failed again, nor the three that had to wait
        assert len([*tmp_path.rglob("*.json")]) == 1

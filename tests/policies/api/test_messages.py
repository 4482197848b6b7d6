"""Request bodies, and parsed responses of every shape."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.policies.api.messages import Answer, Kind, data_url, question_key, read_answer, request_body
from tests.policies.api.endpoint import completion

SETTINGS = ApiSettings(model="m", base_url="http://localhost/v1")
IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def body_of(**changes: object) -> dict[str, Any]:
    settings = ApiSettings(model="m", base_url="http://localhost/v1", **changes)  # type: ignore[arg-type]
    return request_body(IMAGE, "What now?", settings, temperature=0.2, max_new_tokens=7)


def test_the_image_is_sent_without_loss() -> None:
    head, _, data = data_url(IMAGE).partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), IMAGE)


def test_a_request_is_the_image_and_then_the_prompt() -> None:
    body = body_of()
    (message,) = body["messages"]
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][1]["text"] == "What now?"
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("m", 0.2, 7)


def test_fields_can_be_added_and_left_out() -> None:
    body = body_of(omit=("temperature",), extra={"reasoning_effort": "low"})
    assert "temperature" not in body
    assert body["reasoning_effort"] == "low"


def test_the_key_depends_on_all_that_can_change_the_answer() -> None:
    key = question_key("here", body_of(), 0)
    assert question_key("here", dict(reversed(body_of().items())), 0) == key
    others = [
        question_key("there", body_of(), 0),
        question_key("here", body_of(), 1),
        question_key("here", {**body_of(), "temperature": 0.3}, 0),
        question_key("here", request_body(IMAGE[::-1], "What now?", SETTINGS, temperature=0.2, max_new_tokens=7), 0),
        question_key("here", request_body(IMAGE, "What then?", SETTINGS, temperature=0.2, max_new_tokens=7), 0),
    ]
    assert len({key, *others}) == 6


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (completion("hello"), Answer("hello", Kind.OK, 100, 10)),
        (
            completion([{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]),
            Answer("hello", Kind.OK, 100, 10),
        ),
        (completion("hel", finish="length"), Answer("hel", Kind.CUT_OFF, 100, 10)),
        (completion("hello", usage=None), Answer("hello", Kind.OK)),
        (completion("hello", usage=(10**400, 2)), Answer("hello", Kind.OK, None, 2)),
        (completion(None, refusal="I cannot"), Answer("", Kind.REFUSAL, 100, 10)),
        (completion("", finish="content_filter"), Answer("", Kind.REFUSAL, 100, 10)),
        (completion(None), Answer("", Kind.EMPTY, 100, 10)),
        (completion(" \n"), Answer("", Kind.EMPTY, 100, 10)),
        # A reasoning model may use up all tokens before it writes text.
        (completion("", finish="length"), Answer("", Kind.EMPTY, 100, 10)),
        ({**completion(), "choices": []}, Answer("", Kind.MALFORMED, 100, 10)),
        (completion("", finish="error"), Answer("", Kind.MALFORMED, 100, 10)),
        ({"error": {"message": "overloaded", "code": 529}}, Answer("", Kind.MALFORMED)),
        ({"error": {"code": "bad", "innererror": {"code": "unsafe"}}}, Answer("", Kind.REFUSAL)),
        ({"error": {"type": "unsafe"}}, Answer("", Kind.REFUSAL)),
        (completion("half", finish="unsafe"), Answer("", Kind.REFUSAL, 100, 10)),
        ({**completion(), "choices": [None]}, Answer("", Kind.MALFORMED, 100, 10)),
        ({**completion(), "choices": [{"message": "hello"}]}, Answer("", Kind.MALFORMED, 100, 10)),
        ({"choices": None}, Answer("", Kind.MALFORMED)),
        ({"detail": "odd"}, Answer("", Kind.MALFORMED)),
        ([1, 2], Answer("", Kind.MALFORMED)),
    ],
)
def test_every_answer_is_of_a_kind(body: object, answer: Answer) -> None:
    assert read_answer(200, json.dumps(body), ["unsafe"]) == answer


@pytest.mark.parametrize("text", ["", "<html>", '{"choices": [', "[" * 100_000])
def test_a_body_that_is_not_json_is_malformed(text: str) -> None:
    assert read_answer(200, text) == Answer("", Kind.MALFORMED)


def test_an_error_status_is_a_refusal_only_if_the_settings_say_so() -> None:
    for statuses, kind in (((), Kind.MALFORMED), ((451,), Kind.REFUSAL)):
        assert read_answer(451, json.dumps(completion()), (), statuses) == Answer("", kind)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "text", "refusal", "prompt_tokens"]), inner
        )
    ),
)


@given(JSON)
def test_any_json_is_parsed_without_an_error(body: object) -> None:
    assert isinstance(read_answer(200, json.dumps(body)), Answer)

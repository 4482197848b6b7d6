"""Builds request bodies and parses responses. Pure functions."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from PIL import Image

from rl4vlm.config.stages.api import ApiSettings


class Kind(StrEnum):
    """The kind of an answer. Only `OK` and `CUT_OFF` have text; the others lead to a fallback.

    A `MALFORMED` one is no readable completion: it is asked for again, and never stored or played.
    """

    OK = "ok"
    CUT_OFF = "cut_off"
    REFUSAL = "refusal"
    EMPTY = "empty"
    MALFORMED = "malformed"


@dataclass(frozen=True)
class Answer:
    """A parsed answer. Token counts are None if the endpoint does not report them."""

    text: str
    kind: Kind
    input_tokens: int | None = None
    output_tokens: int | None = None


def data_url(image: np.ndarray) -> str:
    """Encode an image, (H, W, 3) uint8, as a PNG data URL (lossless)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def request_body(
    image: np.ndarray, prompt: str, settings: ApiSettings, *, temperature: float, max_new_tokens: int
) -> dict[str, Any]:
    """The body of a chat completion request: one user message with the image before the prompt, as in training."""
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": data_url(image)}},
                    {"type": "text", "text": prompt},
                ],
            }
        ],
        "temperature": temperature,
        "max_completion_tokens": max_new_tokens,
        **settings.extra,
    }
    return {name: value for name, value in body.items() if name not in settings.omit}


def question_key(endpoint: str, body: Mapping[str, Any], repetition: int) -> str:
    """The name of a question in the cache: SHA-256 of endpoint, request body and repetition."""
    text = json.dumps([endpoint, body, repetition], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_answer(
    status: int, text: str, refusal_codes: Collection[str] = (), refusal_statuses: Collection[int] = ()
) -> Answer:
    """Parse the body of an HTTP response, whatever it holds.

    Args:
        status: the HTTP status.
        text: the body.
        refusal_codes: error codes and finish reasons that count as a refusal.
        refusal_statuses: HTTP statuses that count as a refusal. Any other status from 400 on gives a malformed answer.
    """
    if is_refusal(status, text, refusal_codes, refusal_statuses):
        return Answer("", Kind.REFUSAL)
    if status >= 400:
        return Answer("", Kind.MALFORMED)
    body = _parsed(text)
    tokens = (_count(body.get("usage"), "prompt_tokens"), _count(body.get("usage"), "completion_tokens"))
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    choice: Mapping[str, Any] = first if isinstance(first, dict) else {}
    message = choice.get("message")
    # Some routers put an error of the model's host into the choice.
    if not isinstance(message, dict) or choice.get("error") or choice.get("finish_reason") == "error":
        return Answer("", Kind.MALFORMED, *tokens)
    if message.get("refusal") or choice.get("finish_reason") in ("content_filter", *refusal_codes):
        return Answer("", Kind.REFUSAL, *tokens)
    said = _text_of(message.get("content"))
    if not said.strip():
        return Answer("", Kind.EMPTY, *tokens)
    return Answer(said, Kind.CUT_OFF if choice.get("finish_reason") == "length" else Kind.OK, *tokens)


def is_refusal(status: int, text: str, codes: Collection[str], statuses: Collection[int] = ()) -> bool:
    """Whether a response says, by its status or by the code of its error, that the content was refused."""
    error = _parsed(text).get("error")
    found: list[Any] = []
    while isinstance(error, dict):
        found += [error.get("code"), error.get("type")]
        error = error.get("innererror")
    return status in statuses or any(code in codes for code in found if isinstance(code, str))


def _parsed(text: str) -> dict[str, Any]:
    """A JSON object, empty if the text is none."""
    try:
        body = json.loads(text)
    # Deeply nested JSON exceeds the recursion limit.
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _text_of(content: Any) -> str:
    """The text of a message's content, which is either a string or a list of parts."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    # A count beyond any model's context is nonsense, and from 2^53 on floats cannot add it up exactly.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None

"""Sends requests through the official OpenAI client, which handles retries, backoff and Retry-After."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from threading import Event, Lock
from typing import Any

import openai

from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.policies.api.cache import Stored
from rl4vlm.policies.api.messages import Answer, Kind, is_refusal, read_answer

RERUN = "; all answers so far are stored, so run the same again to continue"
LONGEST_WAIT = 8.0
SHORTEST_SECRET = 12
"""A key with at least this many characters is removed from answers, too. Keys of commercial endpoints have more."""


class ApiError(ValueError):
    """The endpoint does not answer, and retrying did not help."""


class Stopped(BaseException):
    """`ApiClient.stop` was called before the request was sent. Not an Exception: the official client would retry."""


def may_pass(status: int) -> bool:
    """Whether a failure with this HTTP status may be over later."""
    # 501 and 505 last: the endpoint does not support the method, or the version of HTTP.
    return status in (408, 409, 425, 429) or (status >= 500 and status not in (501, 505))


def _say_whether_to_retry(response: Any) -> None:
    """Add the header that tells the official client whether to retry: its own statuses differ from `may_pass`."""
    if response.status_code >= 400:
        response.headers.setdefault("x-should-retry", str(may_pass(response.status_code)).lower())


class RateLimit:
    """Spaces the starts of requests evenly. Thread-safe."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._lock = Lock()
        self._next = 0.0

    def delay(self) -> float:
        """Reserve the start of a request; returns the seconds to wait for it."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
        return start - now


class ApiClient:
    """Asks one model at one endpoint. The API key comes from the environment and is sent only in headers."""

    def __init__(self, name: str, settings: ApiSettings) -> None:
        self.name = name
        self.settings = settings
        self._limit = RateLimit(settings.requests_per_minute)
        self._stopped = Event()
        self._key = os.environ.get(settings.key_env, "").strip() if settings.key_env else ""
        try:
            http_client = openai.DefaultHttpxClient(
                trust_env=not settings.is_local,
                # The official client's own retries pass the first of these, too.
                event_hooks={"request": [lambda _: self._pause(0)], "response": [_say_whether_to_retry]},
            )
        except Exception as error:  # the library raises errors of many types for wrong variables of the environment
            raise ApiError(f"{name}: a proxy of the environment (https_proxy, ...) is no address: {error}") from error
        # The client insists on a key. Pass a dummy so that it does not fall back to OPENAI_API_KEY.
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=settings.max_retries,
            http_client=http_client,
        )
        # The client takes these from OPENAI_ORG_ID, OPENAI_PROJECT_ID, OPENAI_ADMIN_KEY and OPENAI_CUSTOM_HEADERS,
        # which may belong to another account of the user.
        self._client.organization = self._client.project = self._client.admin_api_key = None
        self._client._custom_headers = {}

    def ask(self, body: Mapping[str, Any]) -> Stored:
        """Send a request and return its response: a readable completion, or a refusal of the content.

        Raises:
            ApiError: the key is missing or no header can hold it, the endpoint rejects the request, or it gives no
                readable completion after all retries.
            Stopped: `stop` was called before the request was sent.
        """
        self._check_key()
        tries = 0
        while True:
            self._pause(self._limit.delay())
            stored = self._send(body)
            if self.read(stored).kind is not Kind.MALFORMED:
                return replace(stored, retries=stored.retries + tries)
            tries += stored.retries + 1
            if tries > self.settings.max_retries:
                raise ApiError(
                    f"{self._place}: no readable completion after {tries - 1} retries; it answered "
                    f"{stored.text[:200]!r}{self._hint()}{RERUN}"
                )
            self._pause(min(0.5 * 2**tries, LONGEST_WAIT))

    def read(self, stored: Stored) -> Answer:
        """Parse a response. Today's settings decide whether it is a refusal, also for a response from the cache."""
        codes, statuses = self.settings.refusal_codes, self.settings.refusal_statuses
        return read_answer(stored.status, stored.text, codes, statuses)

    def _send(self, body: Mapping[str, Any]) -> Stored:
        codes, statuses = self.settings.refusal_codes, self.settings.refusal_statuses
        try:
            # Pass the whole body as `extra_body`, so that exactly what is stored in the cache is sent.
            raw = self._client.chat.completions.with_raw_response.create(
                model=body["model"], messages=[], extra_body=dict(body)
            )
        except openai.APIStatusError as error:
            text = self._clean(error.response.text)
            if not is_refusal(error.status_code, text, codes, statuses):
                raise self._failure(error) from None
            return Stored(error.status_code, text)
        except openai.APIError as error:
            raise self._failure(error) from None
        # A local server's dummy key, such as `none`, may be a word of the answer.
        text = self._clean(raw.text) if len(self._key) >= SHORTEST_SECRET else raw.text
        return Stored(raw.http_response.status_code, text, raw.retries_taken)

    def _pause(self, seconds: float) -> None:
        """Wait, but raise Stopped at once if `stop` has been called, or is called meanwhile."""
        if self._stopped.wait(seconds):
            raise Stopped

    def _check_key(self) -> None:
        """Refuse a missing key, and one that no header can hold: the HTTP library's message would show it."""
        variable = self.settings.key_env
        if variable and not self._key:
            raise ApiError(f"API model {self.name!r} needs a key: set the environment variable {variable}")
        if not (self._key.isascii() and self._key.isprintable()):
            raise ApiError(
                f"API model {self.name!r}: the key in {variable} holds a line break, a control character or one that "
                "is not ASCII; it was not sent"
            )

    def stop(self) -> None:
        """Send nothing more, and retry nothing. Requests under way may still be answered."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def _place(self) -> str:
        return f"API model {self.name!r} at {self.settings.base_url}"

    def _hint(self) -> str:
        return "" if "/v1" in self.settings.base_url else " (base_url has no /v1; most endpoints need it)"

    def _failure(self, error: openai.APIError) -> ApiError:
        tries = f"after {self.settings.max_retries} retries"
        if isinstance(error, openai.APITimeoutError):
            return ApiError(f"{self._place}: no answer within {self.settings.timeout:g} s, {tries}{RERUN}")
        if not isinstance(error, openai.APIStatusError):
            return ApiError(
                f"{self._place}: no connection, {tries}: {self._clean(str(error.__cause__ or error))}{RERUN}"
            )
        status, what = error.status_code, RERUN
        if not may_pass(status):
            key = self.settings.key_env
            check_key = f"; check the key in {key}" if key else "; name the variable that holds a key in key_env"
            what = {
                401: check_key,
                403: check_key,
                404: f"; check the model's name {self.settings.model!r} and the path of base_url{self._hint()}",
            }.get(status, "; check the settings of the model")
            what += (
                ". If it means that the content was refused, name its code or status in refusal_codes, refusal_statuses"
            )
        return ApiError(f"{self._place}: HTTP {status}: {self._clean(error.message)[:300]}{what}")

    def _clean(self, text: str) -> str:
        """Remove the key from `text`: an endpoint may repeat it in an error message."""
        return text.replace(self._key, "[key]") if self._key else text

"""Sends requests through the official OpenAI client, which handles retries, backoff and Retry-After."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from threading import Lock
from typing import Any

import openai

from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.policies.api.cache import Stored

FILTERED = ("content_filter", "content_policy_violation")
"""Error codes for refused content. Such a response counts as an answer, not as a failure."""
RERUN = "; all answers so far are stored, so run the same again to continue"


class ApiError(ValueError):
    """The endpoint does not answer, and retrying did not help."""


class RateLimit:
    """Spaces the starts of requests evenly. Thread-safe."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._lock = Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Wait until the next request may start."""
        with self._lock:
            start = max(time.monotonic(), self._next)
            self._next = start + self._gap
        time.sleep(max(0.0, start - time.monotonic()))


class ApiClient:
    """Asks one model at one endpoint. The API key comes from the environment and is sent only in headers."""

    def __init__(self, name: str, settings: ApiSettings) -> None:
        self.name = name
        self.settings = settings
        self._limit = RateLimit(settings.requests_per_minute)
        self._key = os.environ.get(settings.key_env, "").strip() if settings.key_env else ""
        # The client insists on a key. Pass a dummy so that it does not fall back to OPENAI_API_KEY.
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=settings.max_retries,
            http_client=openai.DefaultHttpxClient(trust_env=not settings.is_local),
        )

    def ask(self, body: Mapping[str, Any]) -> Stored:
        """Send a request and return its response, even if the body is malformed.

        Raises:
            ApiError: the key is missing, the endpoint rejects the request, or it does not answer after all retries.
        """
        if self.settings.key_env and not self._key:
            raise ApiError(f"API model {self.name!r} needs a key: set the environment variable {self.settings.key_env}")
        self._limit.wait()
        try:
            # Pass the whole body as `extra_body`, so that exactly what is stored in the cache is sent.
            raw = self._client.chat.completions.with_raw_response.create(
                model=body["model"], messages=[], extra_body=dict(body)
            )
        except openai.BadRequestError as error:
            if error.code not in FILTERED:
                raise self._failure(error) from None
            return Stored(error.status_code, self._clean(error.response.text))
        except openai.APIError as error:
            raise self._failure(error) from None
        return Stored(raw.http_response.status_code, self._clean(raw.text), raw.retries_taken)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _failure(self, error: openai.APIError) -> ApiError:
        tries = f"after {self.settings.max_retries} retries"
        place = f"API model {self.name!r} at {self.settings.base_url}"
        if isinstance(error, openai.APITimeoutError):
            return ApiError(f"{place}: no answer within {self.settings.timeout:g} s, {tries}{RERUN}")
        if isinstance(error, openai.APIStatusError):
            return ApiError(f"{place}: HTTP {error.status_code}: {self._clean(error.message)[:300]}{RERUN}")
        return ApiError(f"{place}: no connection, {tries}: {self._clean(str(error.__cause__ or error))}{RERUN}")

    def _clean(self, text: str) -> str:
        """Remove the key from `text`: an endpoint may repeat it in an error message."""
        return text.replace(self._key, "[key]") if self._key else text

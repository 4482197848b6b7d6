"""Asks an endpoint, through the official client: its retries, its backoff, its reading of Retry-After."""

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
"""Error codes of a request that was refused for its content: an answer of a kind, not a failure."""
GO_ON = "; what was answered is kept, so run the same again to go on"


class ApiError(ValueError):
    """An endpoint that does not answer, and will not if asked again now."""


class RateLimit:
    """Spaces the starts of requests evenly; shared by threads."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._lock = Lock()
        self._next = 0.0

    def wait(self) -> None:
        """Return when the next request may start."""
        with self._lock:
            start = max(time.monotonic(), self._next)
            self._next = start + self._gap
        time.sleep(max(0.0, start - time.monotonic()))


class ApiClient:
    """One model at one endpoint; its key is read from the environment and leaves it only in the request's header."""

    def __init__(self, name: str, settings: ApiSettings) -> None:
        self.name = name
        self.settings = settings
        self._limit = RateLimit(settings.requests_per_minute)
        self._key = os.environ.get(settings.key_env, "").strip() if settings.key_env else ""
        # A made-up key for an endpoint without keys: the client wants one, and must not send that of another's.
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=settings.max_retries,
            http_client=openai.DefaultHttpxClient(trust_env=not settings.is_local),
        )

    def ask(self, body: Mapping[str, Any]) -> Stored:
        """Send a request and wait for its response, however broken.

        Raises:
            ApiError: there is no key, the endpoint refuses the request for good, or it does not answer after all
                retries.
        """
        if self.settings.key_env and not self._key:
            raise ApiError(f"API model {self.name!r} needs a key: set the environment variable {self.settings.key_env}")
        self._limit.wait()
        try:
            # As a whole in `extra_body`, so that every field goes out as it is in the cache.
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
            return ApiError(f"{place}: no answer within {self.settings.timeout:g} s, {tries}{GO_ON}")
        if isinstance(error, openai.APIStatusError):
            return ApiError(f"{place}: HTTP {error.status_code}: {self._clean(error.message)[:300]}{GO_ON}")
        return ApiError(f"{place}: no connection, {tries}: {self._clean(str(error.__cause__ or error))}{GO_ON}")

    def _clean(self, text: str) -> str:
        """`text` without the key, which an endpoint may repeat in what it says of it."""
        return text.replace(self._key, "[key]") if self._key else text

"""Settings of a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any
from urllib.parse import urlsplit

from pydantic import model_validator

from rl4vlm.config.fields import Count, Name, Natural, Positive, Seconds, Weight, settings

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@settings
class ApiSettings:
    """How a model is reached, how fast, and what it costs."""

    model: Name
    """The model's name at the endpoint."""
    base_url: str
    """The endpoint, up to and including `/v1`."""
    method: str = ""
    """Name of the model in tables; if empty, its name in the config."""
    key_env: str | None = None
    """The environment variable that holds the key; null for an endpoint without keys."""
    input_price: Weight = 0.0
    """US dollars per million input tokens."""
    output_price: Weight = 0.0
    """US dollars per million output tokens."""
    spending_cap: Positive | None = None
    """The most, in US dollars, that the replies of one evaluation may cost; null sets no limit."""
    concurrency: Count = 4
    """Largest number of requests at the same time."""
    requests_per_minute: Positive | None = None
    """Largest number of requests per minute; null sets no limit."""
    timeout: Seconds = 60.0
    """Seconds to wait for a reply to begin, and for each further part of it. There is no limit for the whole reply."""
    max_retries: Natural = 6
    """How often a request is retried after a temporary failure (status 429, 5xx, a timeout, a lost connection;
    docs/api-models.md) or an answer without a readable completion."""
    refusal_codes: tuple[str, ...] = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")
    """Error codes and finish reasons that mean that the model refused the content. A refusal counts as an answer, not
    as a failure."""
    refusal_statuses: tuple[int, ...] = ()
    """HTTP statuses that mean the same at this endpoint, such as 451."""
    omit: tuple[str, ...] = ()
    """Fields of the request that this model refuses, such as `temperature`; they are not sent."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of the request's body."""
    cache: str = "results/api_cache"
    """Folder where requests and replies are stored."""

    @model_validator(mode="after")
    def _is_reachable(self) -> ApiSettings:
        try:
            place = urlsplit(self.base_url)
            _ = place.port
        except ValueError:
            raise ValueError("base_url is not an http address: its host or port cannot be read") from None
        if place.scheme not in ("http", "https") or not place.hostname:
            raise ValueError("base_url is not an http address")
        # An address is not shown: it may hold a key.
        if place.username or place.password or place.query or place.fragment:
            raise ValueError(
                "base_url holds a user name, a password or a query: a key belongs in the variable that key_env names"
            )
        if place.path.rstrip("/").endswith("/completions"):
            raise ValueError("base_url must end before /chat/completions (with /v1, usually): the client adds it")
        if any(not 400 <= status < 600 for status in self.refusal_statuses):
            raise ValueError("refusal_statuses must be between 400 and 599")
        if self.key_env is not None and not VARIABLE.fullmatch(self.key_env):
            # The value is not shown: it may be a key.
            raise ValueError("key_env must name an environment variable, such as OPENAI_API_KEY, and not be a key")
        if needed := {"model", "messages"} & {*self.omit}:
            raise ValueError(f"omit names {', '.join(sorted(needed))}, which every endpoint needs")
        if self.spending_cap is not None and self.input_price == self.output_price == 0:
            raise ValueError("spending_cap without input_price and output_price would never be reached")
        return self

    @property
    def is_local(self) -> bool:
        """Whether the endpoint is on this machine, where no proxy is needed."""
        return urlsplit(self.base_url).hostname in LOOPBACK

"""How a model behind an endpoint is reached and paid for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ApiSettings:
    """How a model is reached, how fast, and what it costs.

    Attributes:
        model: the model's name at the endpoint.
        base_url: the endpoint, up to and with its `/v1`.
        method: what tables call it; its name in the config unless given.
        key_env: the environment variable that holds the key; None for an endpoint without keys.
        input_price, output_price: US dollars for a million tokens.
        spending_cap: the most, in US dollars, that the replies of one evaluation may cost; None for no cap.
        concurrency: requests under way at a time.
        requests_per_minute: at most so many; None for as many as there are.
        timeout: seconds to wait for a reply.
        max_retries: how often a request is tried again after 429, 5xx, a timeout or a lost connection.
        omit: fields that this model refuses, such as `temperature`, and that are therefore not sent.
        extra: further fields of the request's body.
        cache: folder of the requests and replies; see `ReplyCache`.
    """

    model: str
    base_url: str
    method: str = ""
    key_env: str | None = None
    input_price: float = 0.0
    output_price: float = 0.0
    spending_cap: float | None = None
    concurrency: int = 4
    requests_per_minute: float | None = None
    timeout: float = 60.0
    max_retries: int = 6
    omit: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    cache: str = "results/api_cache"

    def __post_init__(self) -> None:
        place = urlsplit(self.base_url)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise ValueError(f"base_url {self.base_url!r} is not an http address")
        if place.username or place.password:
            raise ValueError("base_url holds a user name or password: a key belongs in the variable that key_env names")
        if self.key_env is not None and not VARIABLE.fullmatch(self.key_env):
            # Not shown: whoever mistakes this for the key's own place has put the key here.
            raise ValueError("key_env must name an environment variable, such as OPENAI_API_KEY, and not be a key")
        if self.input_price < 0 or self.output_price < 0:
            raise ValueError(f"a price is negative: {self.input_price}, {self.output_price}")
        if self.spending_cap is not None and self.input_price == self.output_price == 0:
            raise ValueError("spending_cap without input_price and output_price would never be reached")
        if self.concurrency < 1 or self.max_retries < 0 or self.timeout <= 0:
            raise ValueError("concurrency must be at least 1, max_retries at least 0, timeout more than 0")
        if self.requests_per_minute is not None and self.requests_per_minute <= 0:
            raise ValueError(f"requests_per_minute {self.requests_per_minute} is not more than 0")

    @property
    def is_local(self) -> bool:
        """Whether the endpoint is on this machine, where no proxy is needed."""
        return urlsplit(self.base_url).hostname in LOOPBACK

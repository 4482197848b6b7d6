"""What the replies of one evaluation cost, and when to stop."""

from __future__ import annotations

from threading import Lock
from typing import Any

from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.core.types import PlayStopped
from rl4vlm.policies.api.messages import Answer

MILLION = 1_000_000


class Budget:
    """Adds up tokens and costs, from several threads at once.

    The cap holds for everything the evaluation's replies cost, those in the cache included: a run that is killed and
    started again spends no more than one that goes through.
    """

    def __init__(self, settings: ApiSettings, max_new_tokens: int) -> None:
        self._settings = settings
        self._lock = Lock()
        # What a reply may cost before any has come; its input is not known yet.
        self._dearest = settings.output_price * max_new_tokens / MILLION
        self._reserved = 0.0
        self.cost = self.new_cost = 0.0
        self.requests = self.new_requests = self.retries = self.unmetered = 0
        self.input_tokens = self.output_tokens = 0

    def reserve(self) -> float:
        """Set aside what the dearest reply so far cost, for a new one, in US dollars; raises PlayStopped at the cap."""
        with self._lock:
            self._check(self._reserved + self._dearest)
            self._reserved += self._dearest
            return self._dearest

    def affords(self, replies: int) -> bool:
        """Whether so many more replies as dear as the dearest so far keep within the cap."""
        with self._lock:
            cap = self._settings.spending_cap
            return cap is None or self.cost + replies * self._dearest <= cap

    def release(self, reserved: float) -> None:
        """Give back what was set aside for a reply that never came."""
        with self._lock:
            self._reserved -= reserved

    def charge(self, answer: Answer, retries: int, reserved: float | None = None) -> None:
        """Count an answer; `reserved` is None for one from the cache, which stops play if it exceeds the cap."""
        with self._lock:
            cost = self._cost(answer)
            if reserved is None:
                self._check(cost)
            else:
                self._reserved -= reserved
                self.new_cost += cost
                self.new_requests += 1
            self._dearest = max(self._dearest, cost)
            self.cost += cost
            self.requests += 1
            self.retries += retries
            self.unmetered += answer.input_tokens is None or answer.output_tokens is None
            self.input_tokens += answer.input_tokens or 0
            self.output_tokens += answer.output_tokens or 0

    def totals(self) -> dict[str, Any]:
        """Everything counted so far."""
        with self._lock:
            return {
                "requests": self.requests,
                "new_requests": self.new_requests,
                "retries": self.retries,
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens,
                "requests_without_usage": self.unmetered,
                "cost_usd": round(self.cost, 6),
                "new_cost_usd": round(self.new_cost, 6),
                "spending_cap_usd": self._settings.spending_cap,
            }

    def _check(self, more: float) -> None:
        cap = self._settings.spending_cap
        if cap is not None and self.cost + more > cap:
            raise PlayStopped(f"spending cap of {cap:g} US dollars reached: {self.cost:.4f} spent")

    def _cost(self, answer: Answer) -> float:
        """Where the endpoint does not say, as much as the dearest so far, so that the cap holds all the same."""
        if answer.input_tokens is None or answer.output_tokens is None:
            return self._dearest
        prices = self._settings
        return (answer.input_tokens * prices.input_price + answer.output_tokens * prices.output_price) / MILLION

"""Counts the cost of an evaluation's replies and stops play at the spending cap."""

from __future__ import annotations

from threading import Lock
from typing import Any

from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.core.types import PlayStopped
from rl4vlm.policies.api.messages import Answer

MILLION = 1_000_000


class Budget:
    """Adds up tokens and costs. Thread-safe.

    The spending cap also counts replies from the cache, so that a run that was killed and restarted spends no more than
    an uninterrupted one.

    Args:
        settings: prices and cap.
        max_new_tokens: the longest reply, in tokens.
    """

    def __init__(self, settings: ApiSettings, max_new_tokens: int) -> None:
        self._settings = settings
        self._lock = Lock()
        # Estimated cost of the next reply, in US dollars. Before the first reply, the cost of its input is unknown.
        self._highest = settings.output_price * max_new_tokens / MILLION
        self._reserved = 0.0
        self.cost = self.new_cost = 0.0
        self.requests = self.new_requests = self.retries = self.unmetered = 0
        self.input_tokens = self.output_tokens = 0

    def reserve(self) -> float:
        """Reserve the cost of the most expensive reply so far for a new request.

        Returns:
            The reserved amount in US dollars.

        Raises:
            PlayStopped: the amount would exceed the cap.
        """
        with self._lock:
            self._check(self._reserved + self._highest)
            self._reserved += self._highest
            return self._highest

    def affords(self, replies: int) -> bool:
        """Whether the cap allows this many more replies, each as expensive as the most expensive so far."""
        with self._lock:
            cap = self._settings.spending_cap
            return cap is None or self.cost + replies * self._highest <= cap

    def release(self, reserved: float) -> None:
        """Release the amount reserved for a request that failed."""
        with self._lock:
            self._reserved -= reserved

    def charge(self, answer: Answer, retries: int, reserved: float | None = None) -> None:
        """Count an answer.

        Args:
            answer: the answer.
            retries: how often the request was repeated.
            reserved: the amount from `reserve`; None for an answer from the cache.

        Raises:
            PlayStopped: an answer from the cache exceeds the cap.
        """
        with self._lock:
            cost = self._cost(answer)
            if reserved is None:
                self._check(cost)
            else:
                self._reserved -= reserved
                self.new_cost += cost
                self.new_requests += 1
            self._highest = max(self._highest, cost)
            self.cost += cost
            self.requests += 1
            self.retries += retries
            self.unmetered += answer.input_tokens is None or answer.output_tokens is None
            self.input_tokens += answer.input_tokens or 0
            self.output_tokens += answer.output_tokens or 0

    def totals(self) -> dict[str, Any]:
        """The totals so far, for `summary.json`."""
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
        """Cost of an answer in US dollars."""
        # Without token counts, assume the highest cost so far, so that the cap still holds.
        if answer.input_tokens is None or answer.output_tokens is None:
            return self._highest
        prices = self._settings
        return (answer.input_tokens * prices.input_price + answer.output_tokens * prices.output_price) / MILLION

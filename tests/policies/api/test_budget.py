"""Tokens, costs and the spending cap."""

from __future__ import annotations

import pytest

from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.core.types import PlayStopped
from rl4vlm.policies.api.budget import Budget
from rl4vlm.policies.api.messages import Answer, Kind

ANSWER = Answer("hello", Kind.OK, input_tokens=2000, output_tokens=100)
COST = (2000 * 2.5 + 100 * 10.0) / 1e6


def budget(cap: float | None = None) -> Budget:
    settings = ApiSettings(
        model="m", base_url="http://localhost/v1", input_price=2.5, output_price=10.0, spending_cap=cap
    )
    return Budget(settings, max_new_tokens=100)


def test_tokens_and_dollars_add_up() -> None:
    spent = budget()
    spent.charge(ANSWER, retries=1, reserved=spent.reserve())
    spent.charge(ANSWER, retries=0)
    totals = spent.totals()
    assert (totals["input_tokens"], totals["output_tokens"]) == (4000, 200)
    assert (totals["requests"], totals["new_requests"], totals["retries"]) == (2, 1, 1)
    assert totals["cost_usd"] == pytest.approx(2 * COST)
    assert totals["new_cost_usd"] == pytest.approx(COST)


def test_the_cap_counts_requests_that_are_under_way() -> None:
    spent = budget(cap=2.5 * COST)
    spent.charge(ANSWER, 0, spent.reserve())
    assert spent.reserve() == pytest.approx(COST)
    with pytest.raises(PlayStopped, match=r"spending cap of 0.015 US dollars reached: 0.0060 spent"):
        spent.reserve()


def test_affords_as_many_replies_as_the_cap_allows() -> None:
    spent = budget(cap=4.5 * COST)
    spent.charge(ANSWER, 0, spent.reserve())
    assert spent.affords(3)
    assert not spent.affords(4)
    assert budget().affords(10**9)


def test_a_failed_request_releases_its_reservation() -> None:
    spent = budget(cap=2.5 * COST)
    spent.charge(ANSWER, 0, spent.reserve())
    spent.release(spent.reserve())
    spent.reserve()


def test_answers_from_the_cache_count_too() -> None:
    spent = budget(cap=1.5 * COST)
    spent.charge(ANSWER, 0)
    with pytest.raises(PlayStopped):
        spent.charge(ANSWER, 0)
    assert spent.totals()["cost_usd"] == pytest.approx(COST)


def test_an_answer_without_usage_counts_as_the_most_expensive_so_far() -> None:
    spent = budget()
    spent.charge(ANSWER, 0, spent.reserve())
    spent.charge(Answer("", Kind.MALFORMED), 0, spent.reserve())
    assert spent.totals()["cost_usd"] == pytest.approx(2 * COST)
    assert spent.totals()["requests_without_usage"] == 1


def test_before_the_first_answer_a_full_reply_is_reserved() -> None:
    assert budget().reserve() == pytest.approx(100 * 10.0 / 1e6)

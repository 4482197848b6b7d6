"""Intervals, against numbers worked out by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from rl4vlm.results.intervals import bootstrap_mean, wilson


@pytest.mark.parametrize(("won", "played"), [(0, 10), (10, 10), (1, 10), (80, 200), (199, 200), (1, 1)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_wilson_is_scipys(won: int, played: int, confidence: float) -> None:
    expected = binomtest(won, played).proportion_ci(confidence, method="wilson")
    assert wilson(won, played, confidence) == pytest.approx((expected.low, expected.high))


def test_wilson_ends_exactly_at_the_ends() -> None:
    assert wilson(0, 50)[0] == 0.0
    assert wilson(50, 50)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("won", "played", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 0.0), (1, 2, 95)])
def test_wilson_refuses_what_cannot_be(won: int, played: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"successes|confidence"):
        wilson(won, played, confidence)


def test_bootstrap_mean_weighs_groups_and_not_episodes() -> None:
    mean, low, high = bootstrap_mean([[1.0] * 10, [0.0] * 1000])
    assert mean == low == high == 0.5


def test_bootstrap_mean_takes_weights() -> None:
    assert bootstrap_mean([[1.0], [0.0]], weights=[30, 10])[0] == 0.75


def test_bootstrap_interval_has_the_width_of_theory() -> None:
    won = np.repeat([1.0, 0.0], [160, 240])
    mean, low, high = bootstrap_mean([won, won])
    half = 1.96 * np.sqrt(0.4 * 0.6 / 400 / 2)
    assert mean == 0.4
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)


def test_bootstrap_resamples_values_of_any_kind() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=500)
    mean, low, high = bootstrap_mean([values])
    half = 1.96 * values.std() / np.sqrt(500)
    assert mean == pytest.approx(values.mean())
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)


def test_bootstrap_is_reproducible() -> None:
    groups = [[0.0, 1.0, 1.0], [0.0, 1.0]]
    assert bootstrap_mean(groups, seed=1) == bootstrap_mean(groups, seed=1)


@pytest.mark.parametrize(("groups", "weights"), [([], None), ([[1.0], []], None), ([[1.0]], [1, 2]), ([[1.0]], [0])])
def test_bootstrap_refuses_what_cannot_be(groups: list[list[float]], weights: list[float] | None) -> None:
    with pytest.raises(ValueError, match=r"groups|weights"):
        bootstrap_mean(groups, weights=weights)

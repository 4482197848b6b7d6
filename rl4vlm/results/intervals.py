"""Intervals for success rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a proportion, in [0, 1].

    Args:
        successes: episodes won.
        n: episodes played; with none the interval is (0, 1).
        confidence: its coverage, between 0 and 1.

    Raises:
        ValueError: not 0 <= successes <= n, or no such confidence.

    Source: E. B. Wilson (1927), without continuity correction.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} episodes")
    z = _quantile(confidence)
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the exact bound is 0 or 1, which rounding would miss.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def bootstrap_mean(
    groups: Sequence[Sequence[float]],
    *,
    weights: Sequence[float] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Average of the groups' means with its percentile bootstrap interval: (mean, low, high).

    Each group (the episodes of one task) is resampled by itself, so the interval is that of these tasks.

    Args:
        groups: one sequence of values a group; none may be empty.
        weights: of the groups, in any unit; equal unless given.
        confidence: the interval's coverage, between 0 and 1.
        resamples: bootstrap samples.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: no groups, an empty group, or weights that do not fit.
    """
    _quantile(confidence)
    if not groups or any(len(group) == 0 for group in groups):
        raise ValueError("an average needs groups with values in each")
    shares = np.ones(len(groups)) if weights is None else np.asarray(weights, dtype=float)
    if len(shares) != len(groups) or (shares < 0).any() or shares.sum() == 0:
        raise ValueError(f"weights {list(shares)} do not fit {len(groups)} groups")
    shares = shares / shares.sum()
    rng = np.random.default_rng(seed)
    means = [float(np.mean(group)) for group in groups]
    drawn = np.stack([_resampled_means(np.asarray(group, dtype=float), resamples, rng) for group in groups])
    low, high = np.quantile(shares @ drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(shares @ means), float(low), float(high)


def _resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means (resamples,) of samples drawn from `values` with replacement, by how often each distinct value comes."""
    distinct, counts = np.unique(values, return_counts=True)
    drawn = rng.multinomial(len(values), counts / len(values), size=resamples)
    means: np.ndarray = drawn @ distinct / len(values)
    return means


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)

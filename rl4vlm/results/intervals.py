"""95 % intervals of success rates: of one evaluation, pooled over training seeds, averaged over tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 10_000

Counts = tuple[int, int]
"""(successes, episodes) of one evaluation."""


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a success rate, without continuity correction.

    Args:
        successes: episodes won.
        episodes: episodes played.

    Returns:
        Lower and upper bound in 0..1; (0, 1) without any episode.

    Raises:
        ValueError: not 0 <= successes <= episodes.
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes in {episodes} episodes")
    if episodes == 0:
        return 0.0, 1.0
    interval = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def rate_interval(seeds: Sequence[Counts]) -> tuple[float, float]:
    """95 % interval of the success rate of one method on one task, in percent, training seeds pooled.

    One seed: Wilson's interval. Several seeds: a two-level bootstrap of seeds and of episodes within each, because
    seeds differ by more than their episodes do. Two or three seeds underestimate that spread, so the interval is never
    narrower than Wilson's interval of all episodes together.

    Args:
        seeds: the counts of each training seed.

    Raises:
        ValueError: there are no episodes.
    """
    successes, episodes = (sum(column) for column in zip(*seeds, strict=True)) if seeds else (0, 0)
    if episodes == 0:
        raise ValueError("an interval needs at least one episode")
    low, high = (100 * bound for bound in wilson(successes, episodes))
    if len(seeds) == 1:
        return low, high
    resampled_low, resampled_high = _percentiles(_resampled_rates(seeds, np.random.default_rng(0)))
    return min(low, resampled_low), max(high, resampled_high)


def average_interval(tasks: Sequence[Sequence[Counts]]) -> tuple[float, float]:
    """95 % interval of an unweighted mean over tasks, in percent: a bootstrap of each task's seeds and episodes.

    Args:
        tasks: for each task the counts of each training seed.

    Raises:
        ValueError: a task has no episodes.
    """
    if not tasks or any(not seeds or any(episodes == 0 for _, episodes in seeds) for seeds in tasks):
        raise ValueError("an average needs episodes of every task")
    rng = np.random.default_rng(0)
    return _percentiles(np.mean([_resampled_rates(seeds, rng) for seeds in tasks], axis=0))


def _resampled_rates(seeds: Sequence[Counts], rng: np.random.Generator) -> np.ndarray:
    """Bootstrap samples of a pooled success rate, (RESAMPLES,) in 0..1.

    `scipy.stats.bootstrap` resamples one level only. Here whole seeds are drawn first, then the episodes of each.
    """
    successes, episodes = np.array(seeds, dtype=np.int64).T
    drawn = rng.integers(len(seeds), size=(RESAMPLES, len(seeds)))
    # Resampling n episodes of which k were won is a draw from the binomial distribution of n and k/n.
    won = rng.binomial(episodes[drawn], (successes / episodes)[drawn])
    return won.sum(axis=1) / episodes[drawn].sum(axis=1)


def _percentiles(rates: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(100 * rates, [2.5, 97.5])
    return float(low), float(high)

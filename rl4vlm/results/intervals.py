"""95 % intervals: of success rates, of their averages over tasks, and of differences on the same episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 10_000

Counts = tuple[int, int]
"""(successes, episodes) of one evaluation."""
PairCounts = tuple[int, int, int]
"""Of episodes that two methods played: how many only the first won, both or neither, only the second."""


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

    One seed: Wilson's interval. Several seeds: a hierarchical bootstrap of seeds and of episodes within each, because
    seeds differ by more than their episodes do. It is never narrower than Wilson's interval of all episodes together.

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


def average_interval(tasks: Sequence[Sequence[Counts]], ceilings: Sequence[float] | None = None) -> tuple[float, float]:
    """95 % interval of an unweighted mean over tasks, in percent: a bootstrap of each task's seeds and episodes.

    Args:
        tasks: for each task the counts of each training seed.
        ceilings: each task's best rate in percent, to average the shares of it; 100 unless given.

    Raises:
        ValueError: a task has no episodes.
    """
    if not tasks or any(not seeds or any(episodes == 0 for _, episodes in seeds) for seeds in tasks):
        raise ValueError("an average needs episodes of every task")
    rng = np.random.default_rng(0)
    rates = np.array([_resampled_rates(seeds, rng) for seeds in tasks])
    return _percentiles((rates / np.reshape(ceilings or [100] * len(tasks), (-1, 1))).mean(axis=0) * 100)


class Difference(NamedTuple):
    """By how many points of success one method is above another on the same episodes.

    Attributes:
        points: the difference, in percentage points.
        low: lower end of its 95 % interval.
        high: upper end.
        probability: that the first method is above the second: the share of bootstrap samples, ties halved.
    """

    points: float
    low: float
    high: float
    probability: float

    @property
    def verdict(self) -> str:
        """`better` or `worse` if the interval excludes 0, else `undecided`."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"


def paired_difference(seeds: Sequence[PairCounts]) -> Difference:
    """The difference of two methods on the same episodes: a hierarchical bootstrap of training seeds and of episodes.

    Resampling starts from the counts with half an episode added to both kinds of disagreement and one to agreement,
    over all seeds (Agresti and Min 2005). Otherwise two methods that never disagree would be equal beyond doubt after a
    single episode.

    Args:
        seeds: the counts of each training seed.

    Raises:
        ValueError: there are no episodes.
    """
    counts = np.array(seeds, dtype=np.int64).reshape(-1, 3)
    if not len(counts) or (counts.sum(axis=1) == 0).any():
        raise ValueError("a difference needs at least one episode of every seed")
    signs = np.array([1.0, 0.0, -1.0])
    points = float(100 * (counts @ signs).sum() / counts.sum())
    samples = np.clip(
        _resampled(counts + np.array([0.5, 1.0, 0.5]) / len(counts), signs, np.random.default_rng(0)), -1, 1
    )
    low, high = _percentiles(100 * samples)
    above = (samples > 0).mean() + (samples == 0).mean() / 2
    return Difference(points, min(low, points), max(high, points), float(above))


def _resampled_rates(seeds: Sequence[Counts], rng: np.random.Generator) -> np.ndarray:
    """Bootstrap samples of a pooled success rate, (RESAMPLES,) in percent."""
    won = np.array([[successes, episodes - successes] for successes, episodes in seeds], dtype=np.int64)
    return np.clip(100 * _resampled(won, np.array([1.0, 0.0]), rng), 0, 100)


def _resampled(counts: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap samples of a mean over all episodes, (RESAMPLES,): whole seeds are drawn, then episodes of each.

    `scipy.stats.bootstrap` resamples one level only. Seeds spread by the square root of n / (n - 1) more than they are
    drawn (Rao and Wu 1988), because a bootstrap of few of them is too narrow; of two or three it remains a rough guess.

    Args:
        counts: (seeds, kinds) numbers of episodes of each kind.
        values: (kinds,) the value of an episode of each kind.
    """
    seeds = len(counts)
    episodes = counts.sum(axis=1)
    means = counts @ values / episodes
    drawn = rng.integers(seeds, size=(RESAMPLES, seeds))
    # Resampling n episodes with replacement is one draw from the multinomial distribution of their kinds.
    size = np.round(episodes).astype(np.int64)[drawn]
    played = rng.multinomial(size, (counts / episodes[:, None])[drawn]) @ values / size
    if seeds > 1:
        centre = np.average(means, weights=episodes)
        played += (np.sqrt(seeds / (seeds - 1)) - 1) * (means[drawn] - centre)
    return np.average(played, weights=size, axis=1)


def _percentiles(percent: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(percent, [2.5, 97.5])
    return float(low), float(high)

"""95 % intervals: of success rates, of their averages over tasks, and of differences on the same episodes.

All training seeds play the same held-out episodes, so seeds and episodes are crossed: an episode that is hard for one
seed is hard for all, and more seeds are not more episodes. `scipy.stats.bootstrap` can resample only one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 10_000

Counts = tuple[int, int]
"""(successes, episodes) of one evaluation."""
Outcomes = Mapping[Any, int]
"""The outcomes of one training seed, by episode. Of one method: 1 if it won the episode, else 0. Of the difference of
two methods: 1 if only the first won, -1 if only the second did, else 0. Equal keys mean the same episode."""


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


def rate_interval(seeds: Sequence[Outcomes]) -> tuple[float, float]:
    """95 % interval of the success rate of one method on one task, in percent, training seeds pooled.

    One seed: Wilson's interval. Several seeds: a bootstrap of the seeds and of the episodes.

    Args:
        seeds: the outcomes of each training seed.

    Raises:
        ValueError: there are no episodes.
    """
    won = [outcome for seed in seeds for outcome in seed.values()]
    if not won:
        raise ValueError("an interval needs at least one episode")
    low, high = (
        wilson(sum(won), len(won))
        if len(seeds) == 1
        else _percentiles(_resampled(seeds, WON_AND_LOST, np.random.default_rng(0)))
    )
    rate = sum(won) / len(won)
    return 100 * min(low, rate), 100 * max(high, rate)


def average_interval(
    tasks: Sequence[Sequence[Outcomes]], ceilings: Sequence[float] | None = None
) -> tuple[float, float]:
    """95 % interval of an unweighted mean over tasks, in percent: a bootstrap of each task's seeds and episodes.

    Args:
        tasks: for each task the outcomes of each training seed.
        ceilings: each task's best rate in percent, to average the shares of it; 100 unless given.

    Raises:
        ValueError: a task has no episodes.
    """
    if not tasks or not all(any(seeds) for seeds in tasks):
        raise ValueError("an average needs episodes of every task")
    rng = np.random.default_rng(0)
    best = [ceiling / 100 for ceiling in ceilings or [100] * len(tasks)]
    shares = [100 * _resampled(seeds, WON_AND_LOST, rng) / most for seeds, most in zip(tasks, best, strict=True)]
    won = [[outcome for seed in seeds for outcome in seed.values()] for seeds in tasks]
    average = float(np.mean([100 * np.mean(of_task) / most for of_task, most in zip(won, best, strict=True)]))
    low, high = _percentiles(np.mean(shares, axis=0))
    return min(low, average), max(high, average)


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


def paired_difference(seeds: Sequence[Outcomes]) -> Difference:
    """The difference of two methods on the same episodes: a bootstrap of training seeds and of episodes.

    Args:
        seeds: the differences of each training seed, by episode.

    Raises:
        ValueError: a seed has no episodes.
    """
    if not seeds or not all(seeds):
        raise ValueError("a difference needs at least one episode of every seed")
    points = 100 * float(np.mean([outcome for seed in seeds for outcome in seed.values()]))
    samples = 100 * _resampled(seeds, ONE_OR_BOTH, np.random.default_rng(0))
    low, high = _percentiles(samples)
    above = (samples > 0).mean() + (samples == 0).mean() / 2
    return Difference(points, min(low, points), max(high, points), float(above))


WON_AND_LOST = {1: 0.5, 0: 0.5}
ONE_OR_BOTH = {1: 0.5, 0: 1.0, -1: 0.5}
"""Pseudo-counts: how many episodes of each outcome are added, with the same outcome for all seeds (Agresti and Min
2005). Without them, a single won episode would prove a rate of 100 %, and a single agreement that two methods are
equal."""


def _resampled(seeds: Sequence[Outcomes], added: Mapping[int, float], rng: np.random.Generator) -> np.ndarray:
    """Bootstrap samples of the mean outcome over all seeds and episodes, (RESAMPLES,).

    Each sample is the mean over resampled episodes, the same ones for all seeds, plus the deviation that resampling the
    seeds causes. For n seeds, that deviation is scaled by sqrt(n / (n - 1)) (Rao and Wu 1988), because a bootstrap of
    few seeds is too narrow; with two or three it remains a rough guess. Resampling seeds and episodes jointly would
    count the noise of single plays three times (Owen 2007); this sum counts it twice.

    Args:
        seeds: the outcomes of each training seed.
        added: `WON_AND_LOST` or `ONE_OR_BOTH`.
        rng: draws the resamples.
    """
    episodes = {episode: None for seed in seeds for episode in seed}
    missing = 2  # no outcome has this value
    outcomes = np.array([[seed.get(episode, missing) for episode in episodes] for seed in seeds])
    kinds, counts = np.unique(outcomes, axis=1, return_counts=True)
    kinds = np.hstack([kinds, np.tile(list(added), (len(seeds), 1))])
    counts = np.concatenate([counts, list(added.values())])
    # (seeds, kinds). Episodes are of one kind if each seed had the same outcome in them.
    played = kinds != missing
    values = np.where(played, kinds, 0)
    # Resampling n episodes with replacement is one draw from the multinomial distribution of their kinds.
    drawn = rng.multinomial(round(counts.sum()), counts / counts.sum(), size=RESAMPLES)
    samples = (drawn @ values.sum(axis=0)) / (drawn @ played.sum(axis=0))
    if (n := len(seeds)) > 1:
        size = played @ counts
        means = values @ counts / size
        of_seeds = rng.integers(n, size=(RESAMPLES, n))
        spread = np.average(means[of_seeds], weights=size[of_seeds], axis=1) - np.average(means, weights=size)
        samples += np.sqrt(n / (n - 1)) * spread
    return np.clip(samples, min(added), max(added))


def _percentiles(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)

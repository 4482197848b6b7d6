"""95 % intervals of success rates that are pooled over training seeds or averaged over tasks, in percent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl4vlm.results.intervals import wilson

DRAWS = 10_000
Counts = tuple[int, int]
"""(successes, episodes) of one evaluation."""


def rate_interval(seeds: Sequence[Counts]) -> tuple[float, float]:
    """The interval of one method's success rate on one task, its training seeds pooled.

    With one seed: Wilson's interval. With several, seeds differ by more than their episodes do, so seeds are drawn with
    replacement and episodes within each (a two-level bootstrap); as two or three seeds say little of their spread, the
    interval is never narrower than Wilson's of all episodes together. Raises ValueError where there are no episodes.
    """
    successes, episodes = np.sum(seeds, axis=0) if len(seeds) else (0, 0)
    if episodes == 0:
        raise ValueError("an interval needs at least one episode")
    low, high = (100 * float(bound) for bound in wilson(int(successes), int(episodes)))
    if len(seeds) == 1:
        return low, high
    drawn_low, drawn_high = _percentiles(_bootstrap(seeds, np.random.default_rng(0)))
    return min(low, drawn_low), max(high, drawn_high)


def average_interval(tasks: Sequence[Sequence[Counts]]) -> tuple[float, float]:
    """The interval of an unweighted mean over tasks: a bootstrap of each task's episodes (and seeds, where several).

    `tasks` holds, for each task, the counts of each training seed. Raises ValueError where a task has no episodes.
    """
    if not tasks or any(not seeds or any(episodes == 0 for _, episodes in seeds) for seeds in tasks):
        raise ValueError("an average needs episodes of every task")
    rng = np.random.default_rng(0)
    return _percentiles(np.mean([_bootstrap(seeds, rng) for seeds in tasks], axis=0))


def _bootstrap(seeds: Sequence[Counts], rng: np.random.Generator) -> np.ndarray:
    """(DRAWS,) success rates in 0..1 of resampled seeds and episodes.

    Resampling n yes-or-no outcomes of which k are yes is a draw from the binomial distribution of n and k/n.
    """
    successes, episodes = np.array(seeds, dtype=np.int64).T
    drawn = rng.integers(len(seeds), size=(DRAWS, len(seeds)))
    won = rng.binomial(episodes[drawn], (successes / episodes)[drawn])
    return won.sum(axis=1) / episodes[drawn].sum(axis=1)


def _percentiles(rates: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(100 * rates, [2.5, 97.5])
    return float(low), float(high)

"""The random policy and the solver win as often as the reference table says, by the rules alone.

Source: `reference_policies.csv` (measured). Seeds are fixed; the tolerance is four standard errors.
"""

from math import sqrt

import numpy as np
import pytest

from rl4vlm.tasks.registry import get_task


def win_rate(task, choose, episodes, seed=0):
    rng, won = np.random.default_rng(seed), 0
    for _ in range(episodes):
        state, total = task.start(rng), 0.0
        while True:
            made = task.transition(state, choose(task, state, rng), rng)
            state, total = made.state, total + made.reward
            if made.terminated or made.truncated:
                break
        won += task.succeeded(total, {})
    return 100 * won / episodes


def at_random(task, state, rng):
    return task.actions[rng.integers(len(task.actions))]


def solver(task, state, rng):
    return task.solve(state).action


@pytest.mark.parametrize(
    ("name", "choose", "percent", "episodes"),
    [
        ("NumberLine", at_random, 28.3, 10_000),
        ("NumberLine", solver, 100, 300),
        ("EZPoints", at_random, 0.07, 60_000),
        ("EZPoints", solver, 100, 300),
        ("Points24", solver, 73.09, 4_000),
        ("Blackjack", at_random, 28.06, 20_000),
        ("Blackjack", solver, 42.95, 20_000),
    ],
)
def test_reference_rates(name, choose, percent, episodes):
    share = percent / 100
    tolerance = 100 * 4 * sqrt(share * (1 - share) / episodes)
    assert win_rate(get_task(name), choose, episodes) == pytest.approx(percent, abs=tolerance)

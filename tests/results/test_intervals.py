"""Intervals, against numbers worked out by hand."""

import pytest

from rl4vlm.results.intervals import average_interval, rate_interval, wilson


def by_hand(won: int, played: int) -> tuple[float, float]:
    """Wilson's interval as the solution of (p - won/played)^2 = z^2 p (1 - p) / played."""
    z, rate = 1.959963984540054, won / played
    centre = rate + z * z / (2 * played)
    half = z * (rate * (1 - rate) / played + z * z / (4 * played**2)) ** 0.5
    return (centre - half) / (1 + z * z / played), (centre + half) / (1 + z * z / played)


@pytest.mark.parametrize(("won", "played"), [(0, 10), (10, 10), (1, 10), (80, 200), (199, 200), (1, 1)])
def test_wilson(won: int, played: int) -> None:
    assert wilson(won, played) == pytest.approx(by_hand(won, played), abs=1e-12)


def test_wilson_ends_exactly_at_the_ends() -> None:
    assert wilson(0, 50)[0] == 0.0
    assert wilson(50, 50)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("won", "played"), [(3, 2), (-1, 2)])
def test_wilson_refuses_what_cannot_be(won: int, played: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(won, played)


def test_one_seed_has_wilson_s_interval():
    low, high = wilson(150, 200)
    assert rate_interval([(150, 200)]) == pytest.approx((100 * low, 100 * high))


def test_seeds_that_disagree_widen_the_interval():
    low, high = rate_interval([(20, 200), (180, 200)])
    pooled_low, pooled_high = (100 * bound for bound in wilson(200, 400))
    assert low < pooled_low - 20
    assert high > pooled_high + 20


def test_seeds_that_agree_are_no_surer_than_their_episodes():
    low, high = rate_interval([(200, 200)] * 3)
    assert low == pytest.approx(100 * wilson(600, 600)[0])
    assert high == 100


def test_average_of_equal_tasks_narrows_with_the_square_root_of_their_number():
    low, high = average_interval([[(100, 200)]] * 4)
    # Standard error of one task: sqrt(0.25 / 200) = 3.54 points; of the mean of four: half of it.
    assert (low, high) == pytest.approx((50 - 1.96 * 1.77, 50 + 1.96 * 1.77), abs=0.3)


def test_the_same_counts_give_the_same_interval():
    counts = [[(3, 10), (5, 10)], [(7, 10)]]
    assert average_interval(counts) == average_interval(counts)


@pytest.mark.parametrize("tasks", [[], [[]], [[(0, 0)]]])
def test_no_episodes_have_no_interval(tasks):
    with pytest.raises(ValueError, match="episodes"):
        average_interval(tasks)
    for seeds in tasks:
        with pytest.raises(ValueError, match="episode"):
            rate_interval(seeds)

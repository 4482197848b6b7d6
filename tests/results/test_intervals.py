"""Intervals, against numbers worked out by hand."""

import pytest

from rl4vlm.results.intervals import average_interval, paired_difference, rate_interval, wilson


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


def test_a_paired_difference_is_narrower_than_that_of_its_rates():
    # 55 % against 50 % of the same 400 episodes; they disagree on 20 + 0 of them.
    found = paired_difference([(20, 380, 0)])
    assert found.points == pytest.approx(5)
    # Agresti and Min: ((20 - 0) ± 1.96 sqrt(21 - 400 / 402)) / 402.
    assert (found.low, found.high) == pytest.approx(
        (100 * (20 - 1.96 * 4.47) / 402, 100 * (20 + 1.96 * 4.47) / 402), abs=0.3
    )
    assert (found.verdict, found.probability) == ("better", 1.0)
    assert paired_difference([(0, 380, 20)]).verdict == "worse"


def test_methods_that_never_disagree_are_undecided():
    found = paired_difference([(0, 50, 0)])
    assert found.points == 0
    assert found.low < 0 < found.high
    assert (found.verdict, found.probability) == ("undecided", pytest.approx(0.5, abs=0.02))


def test_seeds_that_disagree_leave_a_difference_undecided():
    assert paired_difference([(40, 160, 0)] * 3).verdict == "better"
    assert paired_difference([(90, 110, 0), (30, 170, 0), (0, 170, 40)]).verdict == "undecided"


def test_few_seeds_are_spread_further_than_they_are_drawn():
    # One draw in 27 takes the lowest seed three times: more than 2.5 %. It lies sqrt(3 / 2) times as far from the mean.
    low, high = rate_interval([(40 * 10**5, 10**7), (50 * 10**5, 10**7), (60 * 10**5, 10**7)])
    assert (low, high) == pytest.approx((50 - 12.25, 50 + 12.25), abs=0.1)


def test_an_average_share_of_the_ceiling():
    low, high = average_interval([[(20, 40)], [(10, 40)]], [100, 50])
    assert low < 50 < high
    assert average_interval([[(20, 40)]], [50]) == pytest.approx([2 * end for end in average_interval([[(20, 40)]])])


@pytest.mark.parametrize("seeds", [[], [(0, 0, 0)]])
def test_no_episodes_have_no_difference(seeds):
    with pytest.raises(ValueError, match="episode"):
        paired_difference(seeds)

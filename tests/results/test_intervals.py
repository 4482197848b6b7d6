"""Intervals, against numbers worked out by hand."""

import numpy as np
import pytest
from scipy.special import expit

from rl4vlm.results import intervals
from rl4vlm.results.intervals import Outcomes, average_interval, paired_difference, rate_interval, wilson


def played(won: int, episodes: int, first: int = 0) -> Outcomes:
    """Outcomes of the episodes from `first` on, of which the first ones were won."""
    return {first + place: int(place < won) for place in range(episodes)}


def disagreed(more: int, same: int, less: int) -> Outcomes:
    return dict(enumerate([1] * more + [0] * same + [-1] * less))


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
    assert rate_interval([played(150, 200)]) == pytest.approx((100 * low, 100 * high))


def test_seeds_that_disagree_widen_the_interval():
    low, high = rate_interval([played(20, 200), played(180, 200)])
    pooled_low, pooled_high = (100 * bound for bound in wilson(200, 400))
    assert low < pooled_low - 20
    assert high > pooled_high + 20


def test_seeds_that_agree_on_every_episode_are_no_surer_than_one_of_them():
    alone = rate_interval([played(150, 200)])
    assert rate_interval([played(150, 200)] * 3) == pytest.approx(alone, abs=0.6)
    # The same number of episodes, but each seed plays different ones.
    low, high = rate_interval([played(150, 200, first=200 * seed) for seed in range(3)])
    assert high - low < 0.65 * (alone[1] - alone[0])


def test_seeds_that_won_everything_may_still_lose():
    low, high = rate_interval([played(200, 200)] * 3)
    assert low == pytest.approx(99, abs=0.5)
    assert high == 100


def test_intervals_hold_the_truth_where_the_same_episodes_are_hard_for_all_seeds(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 1000)
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        rates = expit(rng.normal(0, 0.3, (3, 1)) + rng.normal(0, 4, (1, 60)))
        found.append(rate_interval([dict(enumerate(seed)) for seed in rng.random((3, 60)) < rates]))
    low, high = np.array(found).T
    # Resampling the episodes of each seed separately would cover the true rate in 87 % of the cases.
    assert np.mean((low <= 50) & (high >= 50)) >= 0.92


def test_average_of_equal_tasks_narrows_with_the_square_root_of_their_number():
    low, high = average_interval([[played(100, 200)]] * 4)
    # Standard error of one task: sqrt(0.25 / 200) = 3.54 points; of the mean of four: half of it.
    assert (low, high) == pytest.approx((50 - 1.96 * 1.77, 50 + 1.96 * 1.77), abs=0.3)


def test_the_same_counts_give_the_same_interval():
    outcomes = [[played(3, 10), played(5, 10)], [played(7, 10)]]
    assert average_interval(outcomes) == average_interval(outcomes)


@pytest.mark.parametrize(("won", "average"), [(100, 100), (0, 0)])
def test_an_average_of_many_tasks_lies_in_its_interval(won, average):
    low, high = average_interval([[played(won, 100)]] * 10)
    assert low <= average <= high
    low, high = average_interval([[played(won // 2, 100)]] * 10, [50] * 10)
    assert low <= average <= high


@pytest.mark.parametrize("tasks", [[], [[]], [[{}]]])
def test_no_episodes_have_no_interval(tasks):
    with pytest.raises(ValueError, match="episodes"):
        average_interval(tasks)
    for seeds in tasks:
        with pytest.raises(ValueError, match="episode"):
            rate_interval(seeds)


def test_a_paired_difference_is_narrower_than_that_of_its_rates():
    # 55 % against 50 % of the same 400 episodes; they disagree on 20 + 0 of them.
    found = paired_difference([disagreed(20, 380, 0)])
    assert found.points == pytest.approx(5)
    # Agresti and Min: ((20 - 0) ± 1.96 sqrt(21 - 400 / 402)) / 402.
    assert (found.low, found.high) == pytest.approx(
        (100 * (20 - 1.96 * 4.47) / 402, 100 * (20 + 1.96 * 4.47) / 402), abs=0.3
    )
    assert (found.verdict, found.probability) == ("better", 1.0)
    assert paired_difference([disagreed(0, 380, 20)]).verdict == "worse"


def test_methods_that_never_disagree_are_undecided():
    found = paired_difference([disagreed(0, 50, 0)])
    assert found.points == 0
    assert found.low < 0 < found.high
    assert (found.verdict, found.probability) == ("undecided", pytest.approx(0.5, abs=0.02))


def test_seeds_that_disagree_leave_a_difference_undecided():
    assert paired_difference([disagreed(40, 160, 0)] * 3).verdict == "better"
    seeds = [disagreed(90, 110, 0), disagreed(30, 170, 0), disagreed(0, 170, 40)]
    assert paired_difference(seeds).verdict == "undecided"


def test_a_difference_on_the_same_few_episodes_is_no_surer_with_more_seeds():
    few = disagreed(4, 96, 1)
    assert paired_difference([few]).verdict == paired_difference([few] * 5).verdict == "undecided"


def test_few_seeds_are_spread_further_than_they_are_drawn():
    # One draw in 27 takes the lowest seed three times: more than 2.5 %. It lies sqrt(3 / 2) times as far from the mean.
    low, high = rate_interval([played(won * 500, 50_000) for won in (40, 50, 60)])
    assert (low, high) == pytest.approx((50 - 12.25, 50 + 12.25), abs=0.5)


def test_an_average_share_of_the_ceiling():
    low, high = average_interval([[played(20, 40)], [played(10, 40)]], [100, 50])
    assert low < 50 < high
    whole = average_interval([[played(20, 40)]])
    assert average_interval([[played(20, 40)]], [50]) == pytest.approx([2 * end for end in whole])


@pytest.mark.parametrize("seeds", [[], [{}]])
def test_no_episodes_have_no_difference(seeds):
    with pytest.raises(ValueError, match="episode"):
        paired_difference(seeds)

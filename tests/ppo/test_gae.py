"""GAE against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rl4vlm.ppo.gae import gae, normalise


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


def test_three_steps_by_hand():
    # delta_2 = 1 + .5*8 - 3 = 2; delta_1 = 0 + .5*3 - 2 = -.5; delta_0 = 1 + .5*2 - 1 = 1; gamma*lambda = .25
    advantages, returns = gae(column(1, 0, 1), column(1, 2, 3), column(0, 0, 0), np.array([8.0]), 0.5, 0.5)
    assert advantages[:, 0] == pytest.approx([1.0, 0.0, 2.0])
    assert returns[:, 0] == pytest.approx([2.0, 2.0, 5.0])


def test_nothing_flows_back_over_an_end():
    # the episode ends at step 1: delta_1 = -1 - 2 = -3, delta_0 = 0 + .9*2 - 1 = .8, advantage_0 = .8 + .9*.95*-3
    advantages, _ = gae(column(0, -1, 5), column(1, 2, 3), column(0, 1, 0), np.array([0.0]), 0.9, 0.95)
    assert advantages[:, 0] == pytest.approx([0.8 - 3 * 0.855, -3.0, 2.0])


def test_truncation_bootstrapped_through_the_reward():
    # gamma * V(final) = .9 * 4 is added to the reward of the last step, as the docstring says
    plain, _ = gae(column(0, 1), column(1, 2), column(0, 1), np.array([0.0]), 0.9, 0.95)
    boosted, _ = gae(column(0, 1 + 0.9 * 4), column(1, 2), column(0, 1), np.array([0.0]), 0.9, 0.95)
    assert (boosted - plain)[:, 0] == pytest.approx([0.9 * 0.95 * 3.6, 3.6])


def test_environments_do_not_mix():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 7, 3))
    dones = (rng.random((7, 3)) < 0.3).astype(float)
    last = rng.normal(size=3)
    together, _ = gae(rewards, values, dones, last, 0.9, 0.95)
    for env in range(3):
        alone, _ = gae(rewards[:, [env]], values[:, [env]], dones[:, [env]], last[[env]], 0.9, 0.95)
        assert together[:, env] == pytest.approx(alone[:, 0])


def test_lambda_one_is_the_discounted_return():
    rewards, values = column(1, 2, 3), column(5, 6, 7)
    _, returns = gae(rewards, values, column(0, 0, 0), np.array([10.0]), 0.9, 1.0)
    assert returns[:, 0] == pytest.approx([1 + 1.8 + 2.43 + 7.29, 2 + 2.7 + 8.1, 3 + 9])


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="bootstrap_value"):
        gae(column(1), column(1), column(0), np.zeros(2), 0.9, 0.95)


def test_normalise_uses_the_whole_buffer():
    normalised = normalise(np.array([[1.0, 2.0], [3.0, 6.0]]))
    assert normalised.mean() == pytest.approx(0)
    assert normalised.std(ddof=1) == pytest.approx(1, abs=1e-4)
    assert np.isfinite(normalise(np.array([[2.0]]))).all()

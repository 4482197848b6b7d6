"""NumberLine: its rules, its starts and its solver."""

import numpy as np
import pytest

from rl4vlm.tasks.number_line import NumberLine, NumberLineState

RNG = np.random.default_rng(0)


def play(state, actions):
    """The transitions of a sequence of actions."""
    task, made = NumberLine(), []
    for action in actions:
        made.append(task.transition(state, action, RNG))
        state = made[-1].state
    return made


@pytest.mark.parametrize(
    ("current", "target", "action", "after", "reward", "ends"),
    [
        (1, 3, "+", 2, 0.0, False),
        (2, 3, "+", 3, 1.0, True),
        (4, 3, "-", 3, 1.0, True),
        (2, 3, "-", 1, -1.0, False),
        (0, 3, "-", 0, -1.0, False),
        (5, 3, "+", 5, -1.0, False),
    ],
)
def test_moves(current, target, action, after, reward, ends):
    (made,) = play(NumberLineState(current, target), action)
    assert made.state == NumberLineState(after, target, 1)
    assert (made.reward, made.terminated, made.truncated) == (reward, ends, False)


def test_it_is_cut_off_after_ten_steps():
    made = play(NumberLineState(0, 3), "-" * 10)
    assert [t.truncated for t in made] == [False] * 9 + [True]
    assert not any(t.terminated for t in made)


def test_the_target_at_the_tenth_step_is_an_end():
    last = play(NumberLineState(0, 1), "-" * 9 + "+")[-1]
    assert (last.terminated, last.truncated, last.reward) == (True, False, 1.0)


def test_starts():
    task, rng = NumberLine(), np.random.default_rng(0)
    starts = [task.start(rng) for _ in range(18_000)]
    pairs = [(s.current, s.target) for s in starts]
    assert all(c != t for c, t in pairs)
    counts = {pair: pairs.count(pair) for pair in set(pairs)}
    assert len(counts) == 30
    moved = {(c, (c + 1) % 5) for c in range(6)}  # where equal numbers go: twice as likely
    for pair, count in counts.items():
        assert count == pytest.approx(1000 if pair in moved else 500, rel=0.2)


def test_options():
    task = NumberLine()
    assert task.start(RNG, {"current": 2, "target": 5}) == NumberLineState(2, 5)
    for _ in range(30):
        assert task.start(RNG, {"target": 4}).current != 4
        assert task.start(RNG, {"current": 4}).target != 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"current": 6}, "current"),
        ({"target": -1}, "target"),
        ({"target": "3"}, "target"),
        ({"current": True}, "current"),
        ({"current": 1.0}, "current"),
        ({"current": 3, "target": 3}, "target"),
        ({"cards": ["HK"]}, "cards"),
    ],
)
def test_bad_options_are_named(options, named):
    with pytest.raises(ValueError, match=f"'{named}'"):
        NumberLine().start(RNG, options)


def test_the_solver_goes_straight_there():
    task = NumberLine()
    for current in range(6):
        for target in set(range(6)) - {current}:
            state = NumberLineState(current, target)
            rewards: list[float] = []
            for _ in range(abs(current - target)):
                made = task.transition(state, task.solve(state).action, RNG)
                state, rewards = made.state, [*rewards, made.reward]
            assert made.terminated
            assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_expert_action():
    expert_action = NumberLine().solve(NumberLineState(2, 4))
    assert expert_action.action == "+"
    assert list(expert_action.entries) == list(NumberLine.prompt.keys)
    assert expert_action.entries["current number"] == 2
    assert expert_action.entries["target number"] == 4
    assert "less" in expert_action.entries["thoughts"]
    assert "greater" in NumberLine().solve(NumberLineState(4, 2)).entries["thoughts"]
    assert not NumberLine().solve(NumberLineState(0, 3, steps=8)).solvable

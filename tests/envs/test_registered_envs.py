"""Tests that run over every registered card game. A new game needs no test code here."""

import hashlib
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl4vlm.core.types import ExpertAction, View
from rl4vlm.envs.card_env import CardEnv
from rl4vlm.envs.registration import make_env
from rl4vlm.tasks.registry import get_task_entry
from tests.games import GAMES


def card_env(name: str, **options: object) -> CardEnv:
    """Make a card game's environment, with its own type."""
    return cast(CardEnv, make_env(name, **options))


def episode(env, seed, choices):
    """A digest of everything that an episode shows. The actions are drawn from `choices`."""
    digest = hashlib.sha256()
    image, info = env.reset(seed=seed)
    digest.update(image.tobytes() + repr(sorted(info.items())).encode())
    for _ in range(60):
        actions = env.view().actions
        image, reward, terminated, truncated, info = env.step(int(choices.integers(len(actions))))
        digest.update(image.tobytes() + repr((reward, terminated, truncated, sorted(info.items()))).encode())
        if terminated or truncated:
            break
    return digest.hexdigest()


def episodes(name, seeds):
    env = make_env(name)
    return [episode(env, seed, np.random.default_rng(seed)) for seed in seeds]


@pytest.fixture(params=GAMES)
def name(request):
    return request.param


def test_there_are_four_games():
    assert len(GAMES) >= 4


@pytest.mark.parametrize("rules", ["strict", "upstream"])
def test_gymnasiums_checker_finds_nothing(name, rules):
    check_env(gymnasium.make(get_task_entry(name).gym_id, rules=rules).unwrapped)


def test_it_is_made_by_its_id(name):
    env = gymnasium.make(get_task_entry(name).gym_id)
    image, _ = env.reset(seed=0)
    assert image.shape == (300, 300, 3)
    assert image.dtype == np.uint8
    assert env.spec is not None
    assert env.spec.id == get_task_entry(name).gym_id
    made = cast(CardEnv, env.unwrapped)
    assert made.action_space.n == len(made.view().actions)


def test_a_seed_makes_the_episode(name):
    assert episodes(name, range(10)) == episodes(name, range(10))
    assert len(set(episodes(name, range(10)))) > 5


def test_a_seed_makes_the_episode_in_another_process():
    """All games share one process, since starting it takes most of the time."""
    script = (
        "from tests.envs.test_registered_envs import GAMES, episodes\n"
        "print(*(digest for name in GAMES for digest in episodes(name, range(3))))"
    )
    env = os.environ | {"PYTHONHASHSEED": "7"}
    root = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env, cwd=root)
    assert told.stdout.split() == [digest for name in GAMES for digest in episodes(name, range(3))]


def test_nothing_draws_from_the_global_streams(name):
    random.seed(1)
    np.random.seed(1)

    def global_states() -> tuple[object, str]:
        return random.getstate(), repr(np.random.get_state(legacy=False))

    before = global_states()
    once = episodes(name, range(5))
    assert global_states() == before
    random.seed(2)
    np.random.seed(2)
    assert episodes(name, range(5)) == once


def test_two_environments_do_not_share_a_stream(name):
    """An environment plays the same even if another one plays between its steps."""
    alone, beside = make_env(name), make_env(name)
    alone.reset(seed=5), beside.reset(seed=5)
    shown: tuple[list[object], list[object]] = ([], [])
    noise = np.random.default_rng(0)
    for both, env in zip(shown, (alone, beside), strict=True):
        other = make_env(name)
        choices = np.random.default_rng(9)
        for _ in range(40):
            if env is beside:
                other.reset(seed=int(noise.integers(99)))
                other.step(0)
            image, reward, terminated, truncated, info = env.step(int(choices.integers(len(env.view().actions))))
            both.append((image.tobytes(), reward, repr(info)))
            if terminated or truncated:
                both.append(repr(env.reset()[1]))
    assert shown[0] == shown[1]


def test_unseeded_environments_differ(name):
    first, second = make_env(name), make_env(name)
    first.reset(), second.reset()
    assert first.np_random.integers(2**60) != second.np_random.integers(2**60)


def test_a_pickled_environment_plays_on(name):
    env = make_env(name)
    env.reset(seed=3)
    copy = pickle.loads(pickle.dumps(env))
    for _ in range(20):
        ours, theirs = env.step(0), copy.step(0)
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]
        if ours[2] or ours[3]:
            assert env.reset()[1] == copy.reset()[1]


def test_images_are_the_callers_own(name):
    env = card_env(name, render_mode="rgb_array")
    image, _ = env.reset(seed=1)
    image[:] = 0
    rendered = env.render()
    assert rendered is not None
    assert rendered.any()
    again, _ = make_env(name).reset(seed=1)
    assert again.any()
    assert env.render() is not env.render()
    assert card_env(name).render() is None


def test_view_expert_action_and_perception(name):
    env = card_env(name)
    task = env.task
    for seed in range(20):
        env.reset(seed=seed)
        view, expert_action = env.view(), env.expert_action()
        assert isinstance(view, View)
        assert isinstance(expert_action, ExpertAction)
        assert view.actions == task.actions
        assert expert_action.action in view.actions
        assert tuple(expert_action.entries) == task.prompt.keys
        assert set(env.perception()) == set(task.perception_patterns)
        for text in (task.prompt.role, task.prompt.observation, task.prompt.rules):
            assert "{" not in text.format(**view.fields)


def test_steps_out_of_place(name):
    env = make_env(name)
    for call in (env.view, env.expert_action, env.perception):
        with pytest.raises(gymnasium.error.ResetNeeded):
            call()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="99"):
        env.step(99)
    while not any(env.step(0)[2:4]):
        pass
    env.view()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


def test_bad_options_are_named(name, tmp_path):
    with pytest.raises(ValueError, match="'speed'"):
        make_env(name).reset(options={"speed": 3})
    with pytest.raises(ValueError, match="'rule'; did you mean rules"):
        make_env(name, rule="strict")
    with pytest.raises(ValueError, match="'loose'"):
        make_env(name, rules="loose")
    with pytest.raises(ValueError, match="nowhere"):
        make_env(name, card_art=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="card_art is empty"):
        make_env(name, card_art="")
    with pytest.raises(ValueError, match=f"'human'.*rl4vlm play {name}"):
        CardEnv(name, render_mode="human")


def test_unknown_tasks_are_named():
    with pytest.raises(ValueError, match=r"'Chess'.*NumberLine"):
        make_env("Chess")


def test_options_set_the_start():
    starts: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("NumberLine", {"current": 2, "target": 5}, {"Target": 5, "Current": 2}),
        ("EZPoints", {"cards": ["HK", "D2"]}, {"Cards": ["HK", "D2"], "Numbers": [10, 2], "Formula": []}),
        (
            "Points24",
            {"cards": ["HK", "D2", "CA", "ST"]},
            {"Cards": ["HK", "D2", "CA", "ST"], "Numbers": [10, 2, 1, 10], "Formula": []},
        ),
        (
            "Blackjack",
            {"player": ["HK", "D5"], "dealer": ["CA", "S9"]},
            {"Player Card": [(10, "K", "H"), (5, "5", "D")], "Dealer Card": [(1, "A", "C"), (9, "9", "S")]},
        ),
    ]
    for name, options, info in starts:
        assert make_env(name).reset(options=options)[1] == info


def test_an_episode_through_the_environment():
    env = make_env("EZPoints")
    env.reset(options={"cards": ["HK", "D2"]})
    actions = env.view().actions
    rewards = []
    for action in ("9", "10", "+", "2", "="):
        _, reward, terminated, truncated, info = env.step(actions.index(action))
        rewards.append(reward)
    assert rewards == [-1, 0, 0, 0, 10]
    assert (terminated, truncated) == (True, False)
    assert info["Formula"] == [" ", 10, "+", 2]

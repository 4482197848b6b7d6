"""Success while training: the rolling rate favours no length of episodes, and validation has episodes of its own."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.seeding import TRAINING_SEEDS_FROM, validation_seeds
from rl4vlm.core.types import Episode, Style
from rl4vlm.policies.cnn import CNNPolicy
from rl4vlm.ppo.cnn import build_model
from rl4vlm.ppo.initial import make_slots
from rl4vlm.ppo.loop import train
from rl4vlm.ppo.rollout import Transition
from rl4vlm.ppo.success import RecentEpisodes, validate
from rl4vlm.training.tracking import Track
from tests.ppo.test_loop import SETTINGS, new_state, weights_of

ITEM: Any = None
WIN, LOSS = 1, 20
"""Steps of an episode that is won, and of one that is lost."""


def rollouts(rng: np.random.Generator, rate: float, num_envs: int, steps: int, count: int):
    """`count` rollouts of a game that is won with probability `rate` in `WIN` steps, and lost in `LOSS`."""
    left = [0] * num_envs
    won = [False] * num_envs
    for _ in range(count):
        rollout = []
        for _ in range(steps):
            row = []
            for env in range(num_envs):
                if not left[env]:
                    won[env] = bool(rng.random() < rate)
                    left[env] = WIN if won[env] else LOSS
                left[env] -= 1
                done = not left[env]
                episode = Episode(None, float(won[env]), WIN if won[env] else LOSS, won[env], 0) if done else None
                row.append(Transition(ITEM, 0.0, done, False, {}, episode))
            rollout.append(row)
        yield rollout


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_a_game_won_fast_and_lost_slowly_has_its_true_rate_from_the_first_point_on(rate: float) -> None:
    rng = np.random.default_rng(0)
    curves = []
    for _ in range(60):
        recent = RecentEpisodes(200, num_envs=16)
        curve = []
        for rollout in rollouts(rng, rate, num_envs=16, steps=8, count=6):
            recent.add(rollout)
            curve.append([episode.success for episode in recent.window])
        curves.append(curve)
    # No rate from those that ended first: while the first losses run (24 steps), nothing counts.
    assert not any(curve[0] or curve[1] for curve in curves)
    for update in range(2, 6):
        rates = [np.mean(curve[update]) for curve in curves]
        assert np.mean(rates) == pytest.approx(rate, abs=0.04), update


def test_an_episode_counts_once_all_that_began_before_it_have_ended() -> None:
    recent = RecentEpisodes(10, num_envs=2)
    ends = {(0, 1): "b1", (1, 1): "b2", (3, 0): "a1", (3, 1): "b3", (4, 0): "a2"}
    seen = []
    for step in range(5):
        row = []
        for env in range(2):
            name = ends.get((step, env))
            episode = None if name is None else Episode(None, 0.0, 1, True, 0, group=name)
            row.append(Transition(ITEM, 0.0, name is not None, False, {}, episode))
        recent.add([row])
        seen.append([episode.group for episode in recent.window])
    assert seen == [[], [], [], ["a1", "b1", "b2", "b3"], ["a1", "b1", "b2", "b3"]]


def test_validation_plays_the_same_episodes_on_seeds_of_their_own() -> None:
    seeds = validation_seeds(50)
    assert max(seeds) < TRAINING_SEEDS_FROM
    with pytest.raises(ValueError, match="leads into the seeds of validation"):
        EvaluationSettings(seed_base=seeds[0], episodes=1)
    settings = replace(SETTINGS, validation_episodes=6)
    slots = make_slots("NumberLine", Style.ACTION_ONLY, 1, settings)
    policy = CNNPolicy(build_model(slots, settings))
    shown: list[int] = []
    whole = validate(policy, slots, settings, 0, 1, lambda number, steps: shown.append(len(steps)))
    assert len(whole) == len(shown) == 6
    assert min(shown) > 0
    # Without anybody to show them to, no steps are kept.
    parts = [validate(policy, slots, settings, rank, 4) for rank in range(4)]
    assert [parts[index % 4][index // 4] for index in range(6)] == whole


def test_validation_changes_nothing_but_its_own_metrics(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("rl4vlm.ppo.loop.validate", lambda *_: [True, False, False, False])
    states = {every: new_state(replace(SETTINGS, validation_every=every)) for every in (0, 2)}
    lines = {}
    for every, state in states.items():
        train(state, replace(SETTINGS, validation_every=every), tmp_path / str(every), "test")
        written = (tmp_path / str(every) / "metrics.jsonl").read_text().splitlines()
        lines[every] = [json.loads(line) for line in written]
    # Every second update, and the last.
    assert [line.pop("validation_success_rate") for line in lines[2]] == [None, 0.25, 0.25]
    assert [line.pop("validation_episodes") for line in lines[2]] == [0, 4, 4]
    assert {line.pop("validation_success_rate") for line in lines[0]} == {None}
    assert [line | {"validation_episodes": 0} for line in lines[2]] == lines[0]
    assert weights_of(states[0]).equal(weights_of(states[2]))


def test_the_first_episodes_of_each_validation_are_logged(tmp_path, monkeypatch) -> None:
    logged: list[tuple[str, int, int]] = []
    monkeypatch.setattr(Track, "episode", lambda self, name, steps, step: logged.append((name, len(steps), step)))
    played = [["one"], ["one", "two"], ["one"]]

    def three_episodes(policy, slots, settings, rank, processes, on_episode):
        for number, steps in enumerate(played):
            on_episode(number, steps)
        return [True] * 3

    monkeypatch.setattr("rl4vlm.ppo.loop.validate", three_episodes)
    # Loggers are asked for, but opening them is not tested here.
    monkeypatch.setattr("rl4vlm.ppo.loop.metric_trackers", lambda accelerator, *_: nullcontext(Track(accelerator)))
    settings = replace(SETTINGS, validation_every=2, logged_episodes=2, loggers=("tensorboard",))
    train(new_state(settings), settings, tmp_path, "test")
    steps = [settings.num_steps * update for update in (2, 3)]
    assert logged == [(f"validation_episode_{n}", n, step) for step in steps for n in (1, 2)]

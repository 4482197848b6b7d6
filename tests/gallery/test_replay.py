"""A replay shows the recorded episode, or names the first difference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.types import Reply, Request, Style
from rl4vlm.evaluation.run import run
from rl4vlm.gallery.replay import replay
from rl4vlm.results.read import Recording, load_recording
from tests.gallery.conftest import Scribbler


class Witness(Scribbler):
    """A scribbler that stores every request it was given."""

    def __init__(self) -> None:
        self.shown: list[Request] = []

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        self.shown += requests
        return super().act(requests)


@pytest.mark.parametrize("task", ["NumberLine", "EZPoints", "Points24", "Blackjack"])
def test_shows_what_the_player_saw(tmp_path: Path, task: str) -> None:
    witness = Witness()
    settings = EvaluationSettings(episodes=6, num_envs=1, env={"rules": "upstream"}, prompt={"role": "You play."})
    run(policy=witness, task=task, style=Style.COT, out=tmp_path, settings=settings)
    evaluation = load_recording(tmp_path)
    steps = [step for played in replay(evaluation, evaluation.episodes) for step in played.steps]
    assert len(steps) == len(witness.shown)
    assert any(step.fallback for step in steps)
    for step, request in zip(steps, witness.shown, strict=True):
        assert step.request.prompt == request.prompt
        assert request.prompt.startswith("You play.\n")
        np.testing.assert_array_equal(step.request.image, request.image)


def test_the_last_image_is_of_the_end(evaluated: list[Path]) -> None:
    evaluation = load_recording(evaluated[0])
    for played in replay(evaluation, evaluation.episodes[:5]):
        assert not np.array_equal(played.last_image, played.steps[-1].request.image)


@pytest.fixture
def evaluation(evaluated: list[Path]) -> Recording:
    """A copy of the evaluation with fallbacks, for tests to edit."""
    found = load_recording(evaluated[1])
    return replace(found, episodes=copy.deepcopy(found.episodes))


@pytest.mark.parametrize(
    ("entry", "value"), [("action", "/"), ("reward", 0.5), ("outcome", "ambiguous_action"), ("fallback", None)]
)
def test_a_step_that_differs_is_named(evaluation: Recording, entry: str, value: Any) -> None:
    record: Any = evaluation.episodes[1]
    record["steps"][1][entry] = value
    with pytest.raises(ValueError, match=rf"episodes\.jsonl, episode 1, step 2: the replay's {entry} is"):
        list(replay(evaluation, evaluation.episodes))


@pytest.mark.parametrize(("entry", "value"), [("success", None), ("return", 7.0), ("fallbacks", 99)])
def test_an_ending_that_differs_is_named(evaluation: Recording, entry: str, value: Any) -> None:
    record: Any = evaluation.episodes[3]
    record[entry] = value
    with pytest.raises(ValueError, match=rf"episodes\.jsonl, episode 3: the replay's {entry} is"):
        list(replay(evaluation, evaluation.episodes))


def test_another_seed_is_noticed(evaluation: Recording) -> None:
    records: Any = evaluation.episodes
    for record in records:
        record["seed"] += 1
    with pytest.raises(ValueError, match=r"episodes\.jsonl, episode \d+.*the replay"):
        list(replay(evaluation, records))


def test_a_record_that_is_too_short_or_too_long_is_named(evaluation: Recording) -> None:
    record: Any = evaluation.episodes[2]
    steps = record["steps"]
    record["steps"] = steps[:-1]
    with pytest.raises(
        ValueError, match=f"episode 2: the replay does not end with the record, after {len(steps) - 1} "
    ):
        list(replay(evaluation, evaluation.episodes))
    record["steps"] = [*steps, steps[-1]]
    with pytest.raises(ValueError, match=f"episode 2: the replay ends before step {len(steps) + 1} of"):
        list(replay(evaluation, evaluation.episodes))

"""Replays recorded episodes from their seeds, to recover the images and prompts.

A record holds replies and rewards but no images or prompts, because those follow from the seed and the replies. If the
replay gives the recorded actions, rewards and outcomes, it is the same episode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl4vlm.core.types import Reply, Step
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.last_frame import LastFrame
from rl4vlm.interaction.play import Slot
from rl4vlm.interaction.prompt import override_parts
from rl4vlm.results.read import Recording
from rl4vlm.tasks.registry import get_task


@dataclass(frozen=True)
class Replayed:
    """A replayed episode.

    Attributes:
        record: the episode's line in `episodes.jsonl`.
        steps: the steps as replayed.
        last_image: (H, W, 3) uint8, the image after the last step.
    """

    record: Mapping[str, Any]
    steps: tuple[Step, ...]
    last_image: np.ndarray


def replay(evaluation: Recording, records: Sequence[Mapping[str, Any]]) -> Iterator[Replayed]:
    """Replay episodes of an evaluation.

    Raises:
        ValueError: an action, reward, outcome or ending differs from the record; the message names the file, the
            episode and the step.
    """
    task = get_task(evaluation.task)
    parts = override_parts(task.prompt, evaluation.prompt)
    with closing(LastFrame(make_env(evaluation.task, **evaluation.env))) as env:
        for record in records:
            slot = Slot(env, task, evaluation.style, parts, record["seed"], endless=False)
            place = f"{evaluation.file}, episode {record['episode']}"
            steps = tuple(_steps(slot, record["steps"], place))
            _check_ending(steps, record, place)
            assert env.image is not None
            yield Replayed(record, steps, env.image)


def _steps(slot: Slot, recorded: Sequence[Mapping[str, Any]], place: str) -> Iterator[Step]:
    for number, entry in enumerate(recorded, start=1):
        if slot.stopped:
            raise ValueError(f"{place}: the replay ends before step {number} of {len(recorded)}")
        step = slot.play(Reply(entry["reply"]))
        now = {
            "action": step.action,
            "reward": step.reward,
            "outcome": str(step.parsed.outcome),
            "fallback": step.fallback,
        }
        _compare(now, entry, f"{place}, step {number}")
        yield step


def _check_ending(steps: Sequence[Step], record: Mapping[str, Any], place: str) -> None:
    episode = steps[-1].episode if steps else None
    if episode is None:
        raise ValueError(f"{place}: the replay does not end with the record, after {len(steps)} steps")
    now = {"success": episode.success, "return": episode.total_reward, "fallbacks": episode.fallbacks}
    _compare(now, record, place)


def _compare(now: Mapping[str, Any], recorded: Mapping[str, Any], place: str) -> None:
    for name, value in now.items():
        if recorded[name] != value:
            raise ValueError(
                f"{place}: the replay's {name} is {value!r}, the record's {recorded[name]!r}; did other code make it?"
            )

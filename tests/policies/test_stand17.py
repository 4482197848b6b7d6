"""A player with the dealer's rule."""

from __future__ import annotations

import json

import pytest

from rl4vlm.core.types import Request, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.play import Slot
from rl4vlm.policies.stand17 import StandOn17Policy
from rl4vlm.tasks.registry import get_task
from tests.fakes import climb_slot


def ask(player: list[str]) -> Request:
    task, env = get_task("Blackjack"), make_env("Blackjack")
    slot = Slot(env, task, Style.COT, task.prompt, 1, endless=False)
    env.reset(options={"player": player, "dealer": ["C6", "S9"]})
    assert slot.request is not None
    return slot.request


@pytest.mark.parametrize(
    ("player", "action"),
    [
        (["HK", "D6"], "hit"),
        (["HK", "D7"], "stand"),
        (["HA", "D6"], "stand"),  # a soft 17
        (["HA", "D5"], "hit"),
        (["HA", "D6", "S9"], "hit"),  # a hard 16
        (["DT", "H5", "C6"], "stand"),
    ],
)
def test_it_stands_from_17_on(player: list[str], action: str) -> None:
    (reply,) = StandOn17Policy().act([ask(player)])
    assert json.loads(reply.text)["action"] == action


def test_its_style_is_the_one_asked_for() -> None:
    (reply,) = StandOn17Policy(Style.ACTION_ONLY).act([ask(["HK", "D6"])])
    assert reply.text == '{"action": "hit"}'


def test_another_game_is_refused() -> None:
    request = climb_slot(endless=False).request
    assert request is not None
    with pytest.raises(ValueError, match=r"stand17.*Blackjack only"):
        StandOn17Policy().act([request])

"""Whether a player read the picture right."""

from __future__ import annotations

import re

import pytest

from rl4vlm.core.types import Reply, Style
from rl4vlm.evaluation.perception import PerceptionExaminer, marks, same_perception
from rl4vlm.interaction.play import advance
from rl4vlm.policies.scripted import SolverPolicy
from rl4vlm.tasks.registry import get_task
from tests.fakes import ClimbTask, FakePolicy, climb_slot
from tests.games import GAMES

PATTERNS = {"cards": re.compile(r'"cards": \[([^\]]*)\]'), "sum": re.compile(r'"sum": (\d+)')}


@pytest.mark.parametrize(
    ("said", "truth", "same"),
    [
        ("K, 2", "K,2", True),
        ("k , 2 ", "K, 2", True),
        ("2, K", "K, 2", False),
        ("12", "1", False),
        ("\"k\", '2'", "K, 2", True),
        ("K and 2", "K, 2", True),
    ],
)
def test_white_space_and_case_do_not_matter(said: str, truth: str, same: bool) -> None:
    assert same_perception(said, truth) is same


def test_every_field_that_is_shown_gets_a_mark() -> None:
    truth = {"cards": "K, 2", "sum": "12", "unasked": "x"}
    assert marks('{"cards": [K, 2], "sum": 13}', truth, PATTERNS) == {"cards": "right", "sum": "wrong"}
    assert marks("nothing of the kind", truth, PATTERNS) == {"cards": "not_stated", "sum": "not_stated"}
    assert marks('{"cards": [K, 2]}', {"cards": "K, 2"}, PATTERNS) == {"cards": "right"}


SHOWN = {
    "NumberLine": {"current number": "3", "target number": "5"},
    "EZPoints": {"cards": "K, 2"},
    "Blackjack": {"dealer card": "K", "player cards": "A, 10"},
    "ALFWorld": {"place": "shelf 1", "in hand": "nothing"},
}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("NumberLine", '{"current number": "3", "target number": 4}', "right wrong"),
        ("NumberLine", "{'Current Number': '3', 'TARGET number' : 5}", "right right"),
        ("NumberLine", '{"current number": "three", "thoughts": "5"}', "not_stated not_stated"),
        ("NumberLine", '{"current number": 3.5, "target number": "5 or so"}', "not_stated right"),
        ("NumberLine", '{"current number": "3rd", "target number": 55}', "not_stated wrong"),
        ("EZPoints", '{"cards": ["K", "2"]}', "right"),
        ("EZPoints", '{"cards": [“K”, **2**]}', "right"),
        ("EZPoints", '{"cards": [ k ,2 ]}', "right"),
        ("EZPoints", '{\\"cards\\": [\\"K\\", \\"2\\"]}', "right"),
        ("EZPoints", '{"cards": [K, 3]}', "wrong"),
        ("EZPoints", '{"cards": [K, 2, 2]}', "wrong"),
        ("EZPoints", '{"cards": ["King of hearts", "2"]}', "not_stated"),
        ("EZPoints", '{"cards": "a king and a two"}', "not_stated"),
        ("Blackjack", '"The dealer shows a K. My cards are A and 10."', "right right"),
        ("Blackjack", '"The dealer shows a king. My cards are an ace and a 10."', "not_stated not_stated"),
        ("Blackjack", 'The dealer shows a "K". My cards are **A** and `10`.', "right right"),
        ("Blackjack", "The dealer shows a **Q**. My cards are 'A', “9”.", "wrong wrong"),
        ("Blackjack", "The dealer shows a ♠K. My cards are a ♠A and a 10.", "not_stated not_stated"),
        ("Blackjack", '"the dealer shows q; my cards are a, 10: 21"', "wrong right"),
        ("Blackjack", '"The dealer shows A. My cards are A, 9: 20"', "wrong wrong"),
        ("ALFWorld", '{"thoughts": "I AM at Shelf 1 and hold Nothing."}', "right right"),
        ("ALFWorld", '{"thoughts": "I am at shelf 10 and hold mug 1."}', "wrong wrong"),
        ("ALFWorld", '{"thoughts": "I am at home and hold it."}', "not_stated not_stated"),
        ("ALFWorld", '{"thoughts": "I stand before the shelf."}', "not_stated not_stated"),
    ],
)
def test_other_words_are_not_read_wrong(name: str, text: str, expected: str) -> None:
    found = marks(text, SHOWN[name], get_task(name).perception_patterns)
    assert " ".join(found.values()) == expected


def test_a_reply_is_marked_against_what_was_shown_when_it_was_asked_for() -> None:
    class Meddler(FakePolicy):
        """Changes the game while it answers, as the step that follows does."""

        def act(self, requests: object) -> list[Reply]:
            replies = super().act(requests)  # type: ignore[arg-type]
            slot.env.floor += 1
            return replies

    slot = climb_slot()
    slot.env.floor = 0
    examiner = PerceptionExaminer(Meddler('{"floor": 0, "action": "wait"}'), ClimbTask.perception_patterns)
    assert examiner.act([slot.request])[0].perception == {"floor": "right"}


def test_the_policys_numbers_stay_and_its_trace_goes() -> None:
    class Learned:
        def act(self, requests: object) -> list[Reply]:
            return [Reply('{"floor": 9, "action": "up"}', {"value": 0.5}, replay_item=object())]

    (step,) = advance([climb_slot()], PerceptionExaminer(Learned(), ClimbTask.perception_patterns))
    assert step.reply.numbers == {"value": 0.5}
    assert step.reply.perception == {"floor": "wrong"}
    assert step.reply.replay_item is None


@pytest.mark.parametrize("name", GAMES)
def test_every_task_finds_what_its_demonstrations_read(name: str) -> None:
    """The patterns, the solver's entries and the environment's own reading say the same."""
    from rl4vlm.envs.registration import make_env
    from rl4vlm.interaction.play import Slot

    task = get_task(name)
    slot = Slot(make_env(name), task, Style.COT, task.prompt, 1)
    examiner = PerceptionExaminer(SolverPolicy(), task.perception_patterns)
    for _ in range(30):
        (step,) = advance([slot], examiner)
        assert set(step.reply.perception.values()) == {"right"}, step.reply.text

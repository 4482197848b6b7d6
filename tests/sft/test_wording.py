"""Demonstrations whose thoughts vary: enough entropy, the same content, and nothing else changes."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from itertools import islice

import pytest

from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.types import Step, Style
from rl4vlm.evaluation.perception import marks
from rl4vlm.sft.data import Demonstrations
from rl4vlm.sft.wording import GRAMMARS, wordings
from rl4vlm.tasks.registry import get_task

VARIED = SFTDataSettings(wording="varied", action_noise=0.3)
THOUGHTS = re.compile(r'"thoughts": "([^"]*)"')
FIXED = SFTDataSettings(action_noise=0.3)


def steps(task: str, settings: SFTDataSettings, count: int = 60) -> list[Step]:
    return list(islice(Demonstrations(task, Style.COT, settings).steps(), count))


def thoughts(step: Step) -> str:
    return said(THOUGHTS, step)


def said(pattern: re.Pattern[str], step: Step) -> str:
    found = pattern.search(step.reply.text)
    return found[1] if found else ""


@pytest.mark.parametrize("task", GRAMMARS)
class TestVaried:
    def test_the_wording_of_every_state_has_five_nats(self, task: str) -> None:
        for said in {thoughts(step) for step in steps(task, FIXED)}:
            found = wordings(task, said)
            # All derivations are equally likely; equal texts would add up.
            shares = [n / len(found) for n in Counter(found).values()]
            assert -sum(share * math.log(share) for share in shares) >= 5
            assert said in found

    def test_every_wording_has_the_content(self, task: str) -> None:
        for said in {thoughts(step) for step in steps(task, FIXED)}:
            words = {"up", "down"} if task == "NumberLine" else set()
            content = sorted(re.findall(r"[\d+*]+", said))
            for text in wordings(task, said):
                assert sorted(re.findall(r"[\d+*]+", text)) == content
                assert words & set(re.findall(r"\w+", text)) == words & set(re.findall(r"\w+", said))

    def test_only_the_wording_differs_and_the_fields_are_found(self, task: str) -> None:
        for fixed, varied in zip(steps(task, FIXED), steps(task, VARIED), strict=True):
            assert varied.request.prompt == fixed.request.prompt
            assert varied.action == fixed.action
            assert thoughts(varied) in wordings(task, thoughts(fixed))
            assert varied.reply.text.replace(thoughts(varied), thoughts(fixed)) == fixed.reply.text
            perception = {name: said(pattern, fixed) for name, pattern in patterns(task).items()}
            found = marks(varied.reply.text, perception, patterns(task))
            assert found == dict.fromkeys(perception, "right")

    def test_the_seed_decides(self, task: str) -> None:
        said = [thoughts(step) for step in steps(task, VARIED, 30)]
        assert said == [thoughts(step) for step in steps(task, VARIED, 30)]
        assert len(set(said)) > 25


def patterns(task: str) -> dict[str, re.Pattern[str]]:
    return dict(get_task(task).perception_patterns)


def test_without_thoughts_there_is_nothing_to_word() -> None:
    (step,) = islice(Demonstrations("Blackjack", Style.ACTION_ONLY, SFTDataSettings(wording="varied")).steps(), 1)
    assert set(json.loads(step.reply.text)) == {"action"}


def test_a_task_with_one_wording_is_named() -> None:
    with pytest.raises(ValueError, match="Blackjack has one wording"):
        next(Demonstrations("Blackjack", Style.COT, SFTDataSettings(wording="varied")).steps())

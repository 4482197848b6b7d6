# ruff: noqa: RUF001 - quotes and punctuation of other languages are meant
"""Parsing unusual texts: characters that look like others, and megabytes. `tests/torture` has random texts."""

from __future__ import annotations

import time
import timeit

import pytest

from rl4vlm.core.types import Outcome
from rl4vlm.interaction.parse import parse_reply
from tests.interaction.replies import FORMULA, HOUSE, LINE, action, full_width


class TestCharactersThatOnlyLookDifferent:
    @pytest.mark.parametrize(
        ("value", "word"),
        [
            ("\u2212", "-"),
            ("﹣", "-"),
            ("＋", "+"),
            ("１０", "10"),
            ("𝟕", "7"),
            ("⑦", "7"),
            ("∗", "*"),
            ("＊", "*"),
            ("∕", "/"),
            ("（", "("),
            ("＝", "="),
            ("\u00a07\u2003", "7"),
        ],
    )
    def test_a_twin_of_a_word_is_the_word(self, value: str, word: str) -> None:
        assert action(f'"action": "{value}"', FORMULA) == word
        assert action(f"＂ａｃｔｉｏｎ＂：＂{value}＂", FORMULA) == word

    @pytest.mark.parametrize("value", ["7²", "²", "₂", "½", "1½", "−−", "１１", "1．5", "－－", "10—", "１０，０００"])
    def test_an_exponent_a_fraction_or_a_longer_number_is_no_word(self, value: str) -> None:
        assert parse_reply(f'"action": "{value}"', ("1", "2", "7", "-", "*")).outcome is Outcome.NO_LEGAL_ACTION

    def test_a_dash_separates(self) -> None:
        assert action('"action": "+ — the target is larger – by two"', LINE) == "+"

    @pytest.mark.parametrize("command", HOUSE)
    def test_whole_commands(self, command: str) -> None:
        assert action(full_width(f'"action": "{command.upper()}."'), HOUSE) == command

    def test_words_may_be_written_so_themselves(self) -> None:
        assert action('"action": "1"', ("１", "－")) == "１"
        assert action('"action": "\u2212"', ("１", "－")) == "－"

    @pytest.mark.parametrize("before", ["ﷺ", "ﬃ½㎏…", "e\u0301 ½ ", "㋿ \\n", "\ud800ﷺ"])
    def test_the_span_is_of_the_reply_as_it_is(self, before: str) -> None:
        """Each of these texts is longer in its plain form, so offsets must be mapped back."""
        text = before + '＂ａction": "ﬁt"} ﷺ'
        parsed = parse_reply(text, ("fit",))
        assert parsed.action == "fit"
        assert parsed.action_span == (len(before), len(text))


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "action" * (MEGABYTE // 6),
        "action " * (MEGABYTE // 7),
        '"action":' * (MEGABYTE // 9),
        '"action": "' + "1" * MEGABYTE,
        '"action": ' + "\\" * MEGABYTE,
        '"action": "' + "\\" * MEGABYTE,
        "action" + " " * MEGABYTE,
        '"action": ' + " " * MEGABYTE,
        '"action": "' + "1 " * (MEGABYTE // 2),
        '"action": ' + ',"' * (MEGABYTE // 2),
        '"action": ' + ", " * (MEGABYTE // 2),
        '"action": "' + "'" * MEGABYTE,
        "'action': '" + "a'a" * (MEGABYTE // 3),
        " " * MEGABYTE + 'action": "+"',
        (" " * 1000 + "action") * (MEGABYTE // 1000),
        '"action": "' + "go to " * (MEGABYTE // 6),
        '"action": go' + " " * MEGABYTE,
        '\\"action\\": \\"' + "a" * MEGABYTE,
        '"' * MEGABYTE,
        '"action": "' + "*" * MEGABYTE,
        '"action": ' + ',"a' * (MEGABYTE // 3),
        "ﷺ" * (MEGABYTE // 8) + '"action": "' + "１ " * (MEGABYTE // 8),
        '"action": "' + "e\u0301" * (MEGABYTE // 2),
        "ａｃｔｉｏｎ：" * (MEGABYTE // 14),
        "_action" * (MEGABYTE // 7),
        "_action_ " * (MEGABYTE // 9),
        '"action": "_' + "_." * (MEGABYTE // 2),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_megabytes_take_linear_time(text: str) -> None:
    """A quadratic pattern would take hours on any of these texts: the test is that it ends."""
    for actions in (FORMULA, HOUSE):
        parse_reply(text, actions)


TEN_KB = 10_000
COMMANDS = (*(f"go to {name} {n}" for name in ("shelf", "cabinet", "drawer", "desk") for n in range(1, 16)), "look")


@pytest.mark.parametrize(
    "text",
    ["hit", "i ", "go to ", "go to shelf 1", "ago to shelf 1", "+", "1 ", "İ", "ﷺ", '\\"', "a'a", ',"a', '"action": '],
)
def test_ten_kilobytes_take_ten_milliseconds(text: str) -> None:
    reply = ('"action": "' + text * TEN_KB)[:TEN_KB]
    for actions in (FORMULA, COMMANDS):
        # The fastest of a few tries, in time of this process: others may use the processor, too.
        assert min(timeit.repeat(lambda: parse_reply(reply, actions), timer=time.process_time, number=1)) <= 0.01  # noqa: B023

# ruff: noqa: RUF001 - quotes and punctuation of other languages are meant
"""Parsing replies as models write them."""

from __future__ import annotations

import pytest

from rl4vlm.core.types import Outcome
from rl4vlm.interaction.parse import parse_reply
from tests.interaction.replies import FORMULA, HOUSE, JACK, LINE, action


class TestTheKey:
    @pytest.mark.parametrize(
        "key",
        [
            '"action":',
            "'action':",
            "action:",
            '"Action" :',
            "ACTION:",
            '"action"\n:',
            '" action ":',
            "“action”:",
            '"action"：',
            '\\"action\\":',
            '"action:',
            '{action":',
            "**Action:**",
            "**Action**:",
            "*Action*:",
            "__Action__:",
            "_Action_:",
            "__Action:__",
            "**_Action_**:",
            "**_Action:_**",
            '"__action__":',
            "<b>Action</b>:",
            "<b>Action:</b>",
            '"**action**":',
            '**"action"**:',
            "**`Action`** :",
            "Final action:",
        ],
    )
    def test_matches_without_regard_to_case_quotes_and_white_space(self, key: str) -> None:
        assert action(f'{{"thoughts": "stand?", {key} hit}}', JACK) == "hit"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "hit",
            '"reaction": "hit"',
            "inter_action: hit",
            "réaction: hit",
            "re-action: hit",
            '"actions": "hit"',
            '"action_id": "hit"',
            "_action: hit",
            "action_: hit",
            "__action_: hit",
            "last_action_: hit",
            "my__action__: hit",
            "___action____: hit",
            '"previous action": "hit"',
            '"action" "hit"',
            "action = hit",
            "action ** hit",
            "the action is to hit",
            "action",
        ],
    )
    def test_without_it_there_is_no_action_and_no_span(self, text: str) -> None:
        parsed = parse_reply(text, JACK)
        assert (parsed.action, parsed.action_span, parsed.outcome) == (None, None, Outcome.NO_KEY)

    def test_the_last_one_counts(self) -> None:
        text = '{"action": "hit", "thoughts": "no", "action": "stand"}'
        parsed = parse_reply(text, JACK)
        assert parsed.action == "stand"
        assert parsed.action_span == (text.rindex('"action"'), len(text))

    def test_the_last_one_counts_even_when_its_value_is_worthless(self) -> None:
        assert parse_reply('{"action": "hit"} {"action": "fold"}', JACK).outcome is Outcome.NO_LEGAL_ACTION
        assert parse_reply('{"action": "hit", "action": ', JACK).outcome is Outcome.NO_LEGAL_ACTION

    def test_another_keys_end_is_no_key(self) -> None:
        assert action('{"action": "hit", "previous action": "stand"}', JACK) == "hit"

    def test_thoughts_are_not_searched(self) -> None:
        assert action('{"thoughts": "I should hit. hit! hit!", "action": "stand"}', JACK) == "stand"

    @pytest.mark.parametrize("before", ["", "思考 ", "I think…\n", '{"thoughts": "İßﬁ", '])
    def test_the_span_goes_from_the_keys_quote_to_the_end_of_the_reply(self, before: str) -> None:
        text = before + '"action": "hit"} and more'
        assert parse_reply(text, JACK).action_span == (len(before), len(text))

    def test_the_span_takes_in_the_backslash_of_an_escaped_quote(self) -> None:
        text = '"{\\"action\\": \\"hit\\"}"'
        assert parse_reply(text, JACK).action_span == (2, len(text))


class TestTheValue:
    @pytest.mark.parametrize(
        "value",
        [
            '"hit"',
            "'hit'",
            "hit",
            '"Hit."',
            '"HIT"',
            '" hit "',
            '"hit',
            'hit"',
            "“hit”",
            "‘hit’",
            "«hit»",
            "`hit`",
            '\\"hit\\"',
            '["hit"]',
            '{"name": "hit"}',
            '"I hit now"',
            "hit!",
            "**hit**",
            "__hit__",
            "_I hit_.",
            "__hit__ because it is _late_",
            "\n\n  hit",
            "hit\n```\nI would not stand",
            "hit} stand",
            '"hit", "why": "stand"',
            'hit, "why": "stand"',
            '"hit" since to stand is worse',
            '"don\'t wait: hit"',
            "'don't wait: hit'",
            '"击中 hit"',
            "\"'hit'\"",
            "hit。",
        ],
    )
    def test_names_the_action(self, value: str) -> None:
        assert action(f'{{"thoughts": "x", "action": {value}', JACK) == "hit"

    @pytest.mark.parametrize("value", ['"hit or stand"', '"I will not stand, hit"', "hit, not stand", "[hit, stand]"])
    def test_with_two_legal_actions_gives_none(self, value: str) -> None:
        parsed = parse_reply(f'{{"action": {value}}}', JACK)
        assert (parsed.action, parsed.outcome) == (None, Outcome.AMBIGUOUS)

    def test_with_one_legal_action_twice_gives_it(self) -> None:
        assert action('"action": "hit, yes, hit"', JACK) == "hit"

    @pytest.mark.parametrize(
        "value", ["", '""', '"fold"', '"hits"', '"whit"', '"hit_me"', '"hit-and-run"', "null", "12", '"h i t"']
    )
    def test_without_a_legal_action_gives_none(self, value: str) -> None:
        parsed = parse_reply(f'"action": {value}', JACK)
        assert (parsed.action, parsed.outcome) == (None, Outcome.NO_LEGAL_ACTION)
        assert parsed.action_span is not None

    def test_no_actions_at_all(self) -> None:
        assert parse_reply('"action": "hit"', ()).outcome is Outcome.NO_LEGAL_ACTION


class TestThoughts:
    @pytest.mark.parametrize(
        "text",
        [
            '<think>Then "action": "hit"?',
            '<think>"action": "stand"</think>I will hit.',
            '"action": "stand"\n</think>Then hit.',
            '<THINKING>"action": "stand"</thinking> no <think>"action": "hit"',
        ],
    )
    def test_an_action_in_thoughts_does_not_count(self, text: str) -> None:
        assert parse_reply(text, JACK).outcome is Outcome.NO_KEY

    @pytest.mark.parametrize(
        "text",
        [
            '<think>"action": "stand"</think>\n{"action": "hit"}',
            '"action": "stand"</think>{"action": "hit"}',
            '{"action": "hit"}<think>"action": "stand"',
            "action: hit<think>no: stand",
            '<think>"action": "stand"</think>"action": "hit"<think>',
        ],
    )
    def test_the_answer_outside_counts(self, text: str) -> None:
        parsed = parse_reply(text, JACK)
        assert parsed.action == "hit"
        assert parsed.action_span is not None
        assert "action" in text[parsed.action_span[0] :][:7]
        assert parsed.action_span[1] == len(text)

    def test_thoughts_without_an_answer_are_the_answer(self) -> None:
        assert action('<think>So: {"action": "hit"}</think>\n', JACK) == "hit"


class TestNumbersAndOperators:
    @pytest.mark.parametrize("word", FORMULA)
    def test_every_word_is_read_back(self, word: str) -> None:
        for text in (f'"action": "{word}"', f"action: {word}", f"'action': '{word}.'", f'{{"action": {word}}}'):
            assert action(text, FORMULA) == word

    @pytest.mark.parametrize("value", ["11", "1.5", "100", "1st", "a1", "0", "1_0", "10,000", "x"])
    def test_a_number_is_not_found_in_a_longer_one(self, value: str) -> None:
        assert parse_reply(f'"action": "{value}"', FORMULA).outcome is Outcome.NO_LEGAL_ACTION

    @pytest.mark.parametrize("value", ["10+2", "-1", "(10", "1, 2", "5-2", "+ or -", "2*"])
    def test_several_are_ambiguous(self, value: str) -> None:
        assert parse_reply(f'"action": "{value}"', FORMULA).outcome is Outcome.AMBIGUOUS

    def test_what_is_not_legal_does_not_make_it_ambiguous(self) -> None:
        assert action('"action": "-1"', LINE) == "-"

    @pytest.mark.parametrize("value", ["**", "//", "==", "and/or", "well-known", "++"])
    def test_a_doubled_or_word_joining_operator_is_none(self, value: str) -> None:
        assert action(f'"action": "{value}"', FORMULA) is None

    @pytest.mark.parametrize("word", ["[", "]", "^", "\\", "-", "<=", "a.b", "x y"])
    def test_a_word_may_be_of_any_characters(self, word: str) -> None:
        actions = ("[", "]", "^", "\\", "-", "<=", "a.b", "x y", "<")
        assert action(f"action: {word}", actions) == word
        assert action("action: z", actions) is None

    def test_an_escaped_slash_is_a_slash(self) -> None:
        assert action('"action": "\\/"', FORMULA) == "/"

    @pytest.mark.parametrize(
        ("value", "word"),
        [
            ('"×"', "*"),
            ('"÷"', "/"),
            ("−", "-"),
            ('"\\\\times"', "*"),
            ("$\\times$", "*"),
            ("\\div", "/"),
            ('"\\cdot"', "*"),
            ("*+*", "+"),
            ("**+**", "+"),
            ("<b>+</b>", "+"),
            ("*(*.", "("),
            ("__+__", "+"),
            ("_10_", "10"),
            ("*×*", "*"),
            ("**×**", "*"),
            ("**\\times**.", "*"),
            ("'**÷**'", "/"),
            ("__−__", "-"),
        ],
    )
    def test_signs_of_mathematics_and_markup(self, value: str, word: str) -> None:
        assert action(f'"action": {value}', FORMULA) == word

    @pytest.mark.parametrize("value", ["x", "\\timeset", "3 × 4", "×÷", "××", "****", "*×", "10_"])
    def test_what_is_no_sign_or_several(self, value: str) -> None:
        assert action(f'"action": {value}', FORMULA) is None

    def test_emphasis_that_ends_behind_the_colon_is_no_operator(self) -> None:
        assert action("*Action:* +", FORMULA) == "+"
        assert action("*Action:* *", FORMULA) == "*"
        assert action("_Action:_ *", FORMULA) == "*"
        assert parse_reply("2 *action: +", FORMULA).action_span == (3, 12)
        assert parse_reply("2 __Action__: +", FORMULA).action_span == (2, 15)


class TestCommands:
    """The public code found `shelf 1` inside `shelf 10` (defect 12)."""

    @pytest.mark.parametrize("command", HOUSE)
    def test_every_command_is_read_back(self, command: str) -> None:
        assert action(f'"action": "{command.upper()}."', HOUSE) == command
        assert action(f'"action": "Now I {command}!"', HOUSE) == command

    def test_one_is_not_found_inside_another(self) -> None:
        assert action('"action": "go to shelf 10"', ("go to shelf 1", "look")) is None
        assert action('"action": "I go to  shelf 10 now"', HOUSE) == "go to shelf 10"

    def test_the_longest_counts_where_one_begins_another(self) -> None:
        assert action('"action": "then look at desk 1"', ("look", "look at desk 1")) == "look at desk 1"

    def test_an_alias_names_its_action(self) -> None:
        aliases = {"put mug 1 in/on desk 1": "move mug 1 to desk 1"}
        actions = (*HOUSE, "move mug 1 to desk 1")
        for command in (*aliases, "Move mug 1 to desk 1"):
            assert parse_reply(f'"action": "{command}."', actions, aliases).action == "move mug 1 to desk 1"
        assert parse_reply('"action": "put mug 1 in/on desk 10"', actions, aliases).action is None

    def test_unmatched_text_is_never_the_action(self) -> None:
        assert action('"action": "go to fridge 1"', HOUSE) is None

"""Prompts and the replies of demonstrations."""

from __future__ import annotations

import pytest

from rl4vlm.core.types import PromptParts, Style, View
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.interaction.prompt import override_parts, render, write_reply
from rl4vlm.tasks.registry import get_task, task_names

PARTS = PromptParts(
    role="You count.",
    observation='The sum so far is "{sum}".',
    rules="Reach 5.",
    keys=("seen", "thoughts"),
    hints={"seen": "the number in the picture"},
)
VIEW = View(("+", "stop"), {"sum": "1 + 2"})


def test_everything_is_in_the_prompt_in_the_papers_order() -> None:
    assert render(PARTS, VIEW, Style.COT) == (
        "You count.\n"
        'The sum so far is "1 + 2".\n'
        'Legal actions: "+", "stop".\n'
        "Reach 5.\n"
        'Answer in JSON: {"seen": <the number in the picture>, "thoughts": <thoughts>, "action": "<one legal action>"}'
    )


def test_without_thoughts_the_answer_is_the_action_alone() -> None:
    prompt = render(PARTS, VIEW, Style.ACTION_ONLY)
    assert prompt.endswith('Answer in JSON: {"action": "<one legal action>"}')
    assert "thoughts" not in prompt


def test_a_misspelt_placeholder_is_named() -> None:
    with pytest.raises(ValueError, match=r"'Mind the \{summ\}.' uses \{summ\}: did you mean \{sum\}\?"):
        render(override_parts(PARTS, {"rules": "Mind the {summ}."}), VIEW, Style.COT)


@pytest.mark.parametrize(
    "text",
    ['Say {"sum": {"a": 1}, "b": {}}.', r"$\frac{1}{2} \text{sum of}$", "{{", "{sum!r}", "{sum.__class__}", "{0}", "{"],
)
def test_other_braces_stay(text: str) -> None:
    prompt = render(override_parts(PARTS, {"role": text, "seen": text}), VIEW, Style.COT)
    assert prompt.startswith(f"{text}\n")
    assert f'"seen": <{text}>' in prompt


def test_texts_and_hints_can_be_replaced_and_the_rest_stays() -> None:
    changed = override_parts(PARTS, {"role": "Sum up to {sum}.", "thoughts": "why"})
    prompt = render(changed, VIEW, Style.COT)
    assert prompt.startswith('Sum up to 1 + 2.\nThe sum so far is "1 + 2".')
    assert '"seen": <the number in the picture>, "thoughts": <why>' in prompt
    assert override_parts(PARTS, {}) == PARTS


@pytest.mark.parametrize("name", ["keys", "hints", "action", "Role"])
def test_a_text_that_is_not_there_cannot_be_replaced(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"no text '{name}'; (known: role, observation, rules, seen, thoughts|did you mean)"
    ):
        override_parts(PARTS, {name: "x"})


def test_a_reply_is_one_line_with_texts_quoted_and_ranks_and_numbers_not() -> None:
    entries = {"cards": ["K", 2], "sum": 12, "current formula": "2 *", "thoughts": 'Say "yes".'}
    assert write_reply(entries, "+", Style.COT) == (
        '{"cards": [K, 2], "sum": 12, "current formula": "2 *", "thoughts": "Say \\"yes\\".", "action": "+"}'
    )
    assert write_reply(entries, "+", Style.ACTION_ONLY) == '{"action": "+"}'


@pytest.mark.parametrize("style", Style)
@pytest.mark.parametrize("name", task_names())
def test_every_task_reads_back_what_its_demonstrations_say(name: str, style: Style) -> None:
    task = get_task(name)
    actions = getattr(task, "actions", ())
    for action in actions:
        entries = dict.fromkeys(task.prompt.keys, "the action: none of these")
        assert parse_reply(write_reply(entries, action, style), actions).action == action

# ruff: noqa: RUF001 - quotes and punctuation of other languages are meant
"""The parser of replies: from any text it reads a legal action that the text names, or none, and never raises."""

from __future__ import annotations

import json
import os
import time
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl4vlm.core.types import Outcome
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.interaction.plain import plain
from rl4vlm.policies.api.messages import Kind, read_answer
from rl4vlm.tasks.alfworld import aliases_of
from tests.interaction.replies import FORMULA, HOUSE, JACK, LINE, action, full_width
from tests.policies.api.endpoint import completion
from tests.torture.mutate import mutated
from tests.torture.records import SHARE, budget, trial

KITCHEN = (
    *HOUSE,
    "move mug 1 to desk 1",
    "put mug 10 in/on desk 1",
    "heat egg 2 with microwave 1",
    "go to desk 11",
    "use desklamp 1",
)
GAMES = (LINE, FORMULA, JACK, HOUSE, KITCHEN)
REPLIES = [
    *('{"cards": [10, "A"], "current formula": "10 +", "thoughts": "10 + 2 = 12", "action": "2"}', "action: +"),
    *("```json\n{'thoughts': 'The dealer shows 9.', 'action': 'stand'}\n```", "**Action**: hit", "I would stand."),
    *('<think>"action": "hit"? No.</think>{"action": "stand"}', '"{\\"action\\": \\"hit\\"}"', "Action: `-`, I think."),
    *(
        '{"thoughts": "I don\'t see it", "action": "go to shelf 10"}',
        '{"action": "put mug 1 on desk 1."}',
        '"action": "*"',
    ),
    *(
        "<b>Action</b>: take mug 1 from desk 1",
        '{"action": "\\times", "why": "6 \\times 2"}',
        '{"action": ["look"]}',
        "",
    ),
    *(
        '{"action": "stand", "previous action": "hit"}',
        "动作 “action”：“１０”",
        "Action: Put mug 10 in desk 1\nObservation:",
        "__Action__: _stand_",
        "I multiply.\n**Action**: **×**",
    ),
]
TEN_KB = 10_000


def check(reply: str, actions: tuple[str, ...]) -> str:
    """Assert what holds for every reply."""
    aliases = aliases_of(actions)
    parsed = parse_reply(reply, actions, aliases)
    assert parsed == parse_reply(reply, actions, aliases), "parsed in two ways"
    assert parsed.action is None or parsed.action in actions, "no legal action"
    assert (parsed.action is not None) == (parsed.outcome is Outcome.OK)
    assert (parsed.action_span is None) == (parsed.outcome is Outcome.NO_KEY)
    if parsed.action_span is None:
        return "had no key"
    start, end = parsed.action_span
    assert 0 <= start < end == len(reply), "a span outside of the reply"
    said = " ".join(plain(reply[start:]).lower().split())
    assert "action" in said, "a span without its key"
    if parsed.action is None:
        return "named no action, or several"
    signs = {"*": ("\\times", "\\cdot"), "/": ("\\div",)}.get(parsed.action, ())
    words = [parsed.action, *signs, *(alias for alias, command in aliases.items() if command == parsed.action)]
    assert any(word in said for word in words), "an action that is not there"
    return "named one legal action"


def test_mutated_replies() -> None:
    rng = Random(1)
    with trial("Parsers", "replies: mutations of real ones") as tried:
        for _ in range(budget(short=3_000, long=1_000_000)):
            tried.attempt(check, mutated(rng.choice(REPLIES), rng, REPLIES), rng.choice(GAMES))


def test_replies_of_ten_kilobytes() -> None:
    # CPU time, and the best of three tries, since other processes slow this one down. `make test` runs beside other
    # tests, so it allows far more.
    most = 0.01 if SHARE in os.environ else 0.1
    rng = Random(2)

    def timed(reply: str, actions: tuple[str, ...]) -> str:
        for _ in range(3):
            begun = time.process_time()
            parse_reply(reply, actions, aliases_of(actions))
            if time.process_time() - begun <= most:
                return f"took {most * 1000:g} ms at most"
        raise TimeoutError(f"more than {most} s")

    with trial("Parsers", "replies of 10 kB: mutations, repeated") as tried:
        for _ in range(budget(short=60, long=20_000)):
            reply = mutated(rng.choice(REPLIES), rng, REPLIES) or " "
            tried.attempt(timed, ('"action": "' * rng.randrange(2) + reply * TEN_KB)[:TEN_KB], rng.choice(GAMES))


HOSTILE = st.text(alphabet="\"'\\{}[]:,.\n\r actionACTION+-*/=()10hitsandé“”：İſ", max_size=60)


def test_any_text() -> None:
    with trial("Parsers", "replies: any text (hypothesis)") as tried:

        @settings(deadline=None, max_examples=budget(short=250, long=30_000))
        @given(text=st.one_of(st.text(max_size=60), HOSTILE), actions=st.sampled_from(GAMES))
        @example(text='"action": "ſtand"', actions=JACK)
        @example(text='"action": "İ"', actions=JACK)
        @example(text="\ud800action:\ud800", actions=LINE)
        def read(text: str, actions: tuple[str, ...]) -> None:
            for reply in (text, f'"action": {text}', f'"action": "{text}"'):
                tried.ended(check(reply, actions))

        read()


def test_any_words_may_be_actions() -> None:
    with trial("Parsers", "replies: any words as actions (hypothesis)") as tried:

        @settings(deadline=None, max_examples=budget(short=100, long=10_000))
        @given(actions=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5), text=st.text(max_size=30))
        def read(actions: list[str], text: str) -> None:
            parsed = parse_reply(f'"action": "{text}"', actions)
            assert parsed.action is None or parsed.action in actions
            tried.ended()

        read()


def test_json_with_any_thoughts_is_read_back() -> None:
    with trial("Parsers", "JSON with any thoughts before the action (hypothesis)") as tried:

        @settings(deadline=None, max_examples=budget(short=100, long=20_000))
        @given(thoughts=st.text(max_size=80), word=st.sampled_from(FORMULA))
        def read(thoughts: str, word: str) -> None:
            assert action(json.dumps({"thoughts": thoughts, "action": word}), FORMULA) == word
            tried.ended("gave the action")

        read()


ASCII_REPLIES = st.lists(
    st.sampled_from(
        ['"action"', "action:", ": ", '"', "'", "hit", "stand", "10", "-", "*", ", ", "{", "}", "\\", "\n", "."]
    ),
    max_size=12,
).map("".join)


def test_full_width_characters_anywhere_change_nothing() -> None:
    with trial("Parsers", "full-width characters anywhere (hypothesis)") as tried:

        @settings(deadline=None, max_examples=budget(short=100, long=10_000))
        @given(text=ASCII_REPLIES, data=st.data(), actions=st.sampled_from([FORMULA, JACK]))
        def read(text: str, data: st.DataObject, actions: tuple[str, ...]) -> None:
            wide = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
            mixed = "".join(full_width(c) if is_wide else c for c, is_wide in zip(text, wide, strict=True))
            assert parse_reply(mixed, actions) == parse_reply(text, actions)
            tried.ended("changed nothing")

        read()


def test_the_span_starts_at_the_key_whatever_comes_before() -> None:
    with trial("Parsers", "ligatures and marks before the key (hypothesis)") as tried:

        @settings(deadline=None, max_examples=budget(short=100, long=10_000))
        @given(thoughts=st.text(alphabet="ﷺﬃ½…㎏é\u0301 a", max_size=40), word=st.sampled_from(FORMULA))
        def read(thoughts: str, word: str) -> None:
            before = f'{{"thoughts": "{thoughts}", '
            text = f'{before}"action": "{full_width(word)}"}}'
            parsed = parse_reply(text, FORMULA)
            assert (parsed.action, parsed.action_span) == (word, (len(before), len(text)))
            tried.ended("gave the action and its span")

        read()


ANSWERS = [
    json.dumps(completion()),
    json.dumps(completion([{"type": "text", "text": "hit"}], "length", None)),
    json.dumps(completion(None, "content_filter", refusal="no")),
    '{"error": {"message": "slow down", "code": 429, "innererror": {"code": "content_filter"}}}',
    '{"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": true}}',
    "<html>502 Bad Gateway</html>",
]


def check_answer(status: int, text: str) -> str:
    answer = read_answer(status, text, ("content_filter",))
    assert bool(answer.text.strip()) == (answer.kind in (Kind.OK, Kind.CUT_OFF)), answer
    for count in (answer.input_tokens, answer.output_tokens):
        assert count is None or (type(count) is int and count >= 0), answer
    return "were a readable completion" if answer.text else f"were {answer.kind}"


def test_answers_of_endpoints() -> None:
    rng = Random(11)
    with trial("Parsers", "answers of an endpoint: mutations of real ones") as tried:
        for _ in range(budget(short=1_000, long=1_000_000)):
            tried.attempt(check_answer, rng.choice((200, 200, 400, 500)), mutated(rng.choice(ANSWERS), rng, ANSWERS))


# --- ALFWorld's commands ----------------------------------------------------------------------------------------------

THINGS = ("mug 1", "mug 11", "apple 2", "egg 1", "butterknife 1", "knife 1")
PLACES = ("shelf 1", "shelf 10", "desk 1", "sidetable 1", "table 1", "microwave 1", "garbagecan 2")
NOISE = ("i", "will", "now", "to", "the", "look", "go", "at", "1", "0", "from", "in", "on", "then", "not", "10", "with")


def some_commands(rng: Random) -> tuple[str, ...]:
    """A list of admissible commands, like ALFWorld's."""
    made = {"look", "inventory"} | {f"go to {place}" for place in rng.sample(PLACES, 4)}
    for _ in range(8):
        thing, place = rng.choice(THINGS), rng.choice(PLACES)
        made.add(
            rng.choice(("take {} from {}", "move {} to {}", "put {} in/on {}", "heat {} with {}")).format(thing, place)
        )
        made.add(rng.choice(("open {1}", "close {1}", "examine {1}", "examine {0}", "use {0}")).format(thing, place))
    return tuple(sorted(made))


def named(value: str, commands: tuple[str, ...]) -> set[str]:
    """The commands that a value of plain words names: a slow search word by word, the longest commands first. A command
    inside a longer one does not count."""
    words, texts = value.split(), {command: command for command in commands}
    for text, command in aliases_of(commands).items():
        texts.setdefault(text, command)
    taken: list[tuple[str, range]] = []
    found = set()
    for text in sorted(texts, key=len, reverse=True):
        parts = text.split()
        for start in range(len(words) - len(parts) + 1):
            place = range(start, start + len(parts))
            if words[start : place.stop] != parts:
                continue
            if not any(text in longer and {*place} & {*other} for longer, other in taken):
                found.add(texts[text])
            taken.append((text, place))
    return found


def check_command(value: str, commands: tuple[str, ...], written: str) -> str:
    """Assert that a value names the same command however it is written (`written`)."""
    parsed = parse_reply(written, commands, aliases_of(commands))
    expected = named(value, commands)
    if len(expected) == 1:
        assert parsed.action == next(iter(expected)), f"{parsed.action!r}, not {expected}"
        return "named the one command"
    assert parsed.outcome is (Outcome.AMBIGUOUS if expected else Outcome.NO_LEGAL_ACTION), f"{parsed}, not {expected}"
    return "named none or several, and were not guessed"


def test_commands() -> None:
    rng = Random(3)
    commands = some_commands(rng)
    with trial("Parsers", "ALFWorld's commands, against a search word by word") as tried:
        for number in range(budget(short=3_000, long=1_000_000)):
            if number % 50 == 0:
                commands = some_commands(rng)
                texts = (*commands, *aliases_of(commands), *some_commands(rng))
            words = [
                *rng.choices(NOISE, k=rng.randrange(4)),
                rng.choice(texts),
                *rng.choices(NOISE, k=rng.randrange(4)),
            ]
            if rng.random() < 0.3:
                words.append(rng.choice(texts))
            value = " ".join(words)
            written = rng.choice((str.upper, str.title, str.lower, full_width))(value)
            written = written.replace(" ", rng.choice((" ", "  ", " \t")))
            form = rng.choice(('{{"action": "{}"}}', "Action: {}", '"action": "{}.', "**Action:** {}\nI hope"))
            tried.attempt(check_command, value, commands, form.format(written))

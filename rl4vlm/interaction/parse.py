# ruff: noqa: RUF001 - quotes and punctuation of other languages are meant
"""From a reply's text to an action: the paper's post-processing function f (section 4.2).

A reply is whatever a model wrote, so nothing is assumed of it: every function here returns on every string, in time
linear in its length (repetitions in the patterns are possessive, or run over stretches that do not overlap).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rl4vlm.core.types import Outcome, Parsed
from rl4vlm.interaction.plain import original_offset, plain

_QUOTES = "\"'`“”„‟‘’‚‛«»"
_CLOSING = {quote: quote for quote in "\"'`”’"}
_CLOSING |= {"“": "”“", "„": "“”", "‟": "”", "‘": "’‘", "‚": "‘’", "‛": "’", "«": "»", "»": "«"}
"""Which quotes close a string that one opens."""
_FINAL_PUNCTUATION = ".,;:!?…。，、；：！？"

_WORD = re.compile(r"(?<![\w-])(?ai:action)(?!\w)")
_AFTER_WORD = re.compile(rf"\s*+(?P<quote>\\?[{_QUOTES}]\s*+)?[:：]")
_OPENING = re.compile(rf"\s*+(?P<escape>\\?)(?P<quote>[{_QUOTES}])")
_END_OF_BARE_VALUE = re.compile(rf"[}}\n\r]|,\s*+[{_QUOTES}][\w ]{{1,40}}[{_QUOTES}]\s*+:")
_SPACES = re.compile(r"\s+")
_WITHIN_WORD = re.compile(r"(?<=\w)['’](?=\w)")


def parse_reply(text: str, actions: Sequence[str]) -> Parsed:
    """Find the legal action that a reply asks for.

    The key is the word `action` before a colon; case, white space and quotes around it do not matter, and of several
    keys only the last counts. Its value is the quoted string that follows or, where quotes are missing or not closed,
    what stands before the next `}`, line break or key. It names the one legal action that occurs in it as a whole token
    (never `1` in `10`, `shelf 1` in `shelf 10`, `*` in `**`), whatever its case, white space and surroundings. All is
    read in plain characters (`rl4vlm.interaction.plain`): a full-width digit is a digit, a minus sign a hyphen.

    Args:
        text: the reply, any string.
        actions: the legal action words.

    Returns:
        The action (a member of `actions`) or why there is none, and the character span from the key to the reply's end,
        in `text` as it is.
    """
    read = plain(text)
    key = _last_key(read)
    if key is None:
        return Parsed(None, None, Outcome.NO_KEY)
    start, value_start = key
    span = (original_offset(text, start), len(text))
    found = _actions_in(_value(read, value_start), tuple(actions))
    if len(found) == 1:
        return Parsed(found.pop(), span, Outcome.OK)
    return Parsed(None, span, Outcome.AMBIGUOUS if found else Outcome.NO_LEGAL_ACTION)


def _last_key(text: str) -> tuple[int, int] | None:
    """Where the last key starts, its opening quote included, and where its value does."""
    last = None
    for word in _WORD.finditer(text):
        after = _AFTER_WORD.match(text, word.end())
        if after is None:
            continue
        start = _start_of_key(text, word.start(), closed=after["quote"] is not None)
        if start is not None:
            last = (start, after.end())
    return last


def _start_of_key(text: str, word_start: int, *, closed: bool) -> int | None:
    """Where the key whose word is at `word_start` starts; None if the word only ends another key ("last action")."""
    at = word_start
    while at > 0 and text[at - 1].isspace():
        at -= 1
    before = text[at - 1] if at > 0 else ""
    if before in _QUOTES and before and (closed or at == word_start):
        escaped = at > 1 and text[at - 2] == "\\"
        return at - 2 if escaped else at - 1
    if closed and before not in ("", "{", "[", "(", ","):
        return None
    return word_start


def _value(text: str, start: int) -> str:
    """The value that starts at `start`."""
    opening = _OPENING.match(text, start)
    if opening is None:
        return _bare_value(text, start)
    inside = opening.end()
    end = _closing(text, inside, _CLOSING[opening["quote"]], escaped=bool(opening["escape"]))
    return _bare_value(text, inside) if end is None else text[inside:end]


def _bare_value(text: str, start: int) -> str:
    while start < len(text) and text[start].isspace():
        start += 1
    end = _END_OF_BARE_VALUE.search(text, start)
    return text[start : end.start() if end else len(text)]


def _closing(text: str, start: int, closing: str, *, escaped: bool) -> int | None:
    """Where the string whose inside begins at `start` ends, on the same line: at one of the quotes `closing`, behind a
    backslash if `escaped` is true and else behind none. An apostrophe within a word closes nothing.

    Steps from mark to mark in place of one pattern for the whole inside: possessive repetitions of groups, which keep
    such a pattern linear, match wrongly in Python 3.11.2 (Debian 12's).
    """
    for mark in _marks(closing).finditer(text, start):
        if mark[0] in "\n\r":
            return None
        if mark[0][0] == "\\":
            if escaped:
                return mark.start() if mark[0][1:] in closing else None
        elif not escaped and not _WITHIN_WORD.match(text, mark.start()):
            return mark.start()
    return None


@lru_cache(maxsize=16)
def _marks(closing: str) -> re.Pattern[str]:
    return re.compile(rf"\\.|[\n\r{re.escape(closing)}]")


def _actions_in(value: str, actions: tuple[str, ...]) -> set[str]:
    """The legal actions that a value names; a value that equals one has it as its longest token and no other."""
    matcher = _matcher(actions)
    found = matcher.token.finditer(value.lower())
    return {matcher.actions[match.lastindex - 1] for match in found if match.lastindex}


def _normalised(text: str) -> str:
    """In plain characters, without case, outer quotes, white space that does not separate, and final punctuation."""
    return _SPACES.sub(" ", plain(text).strip().strip(_QUOTES + _FINAL_PUNCTUATION + " \t")).lower()


@dataclass(frozen=True)
class _Matcher:
    """Finds action words: group k of `token` matches the lower-case text of `actions[k - 1]` as a whole token."""

    actions: list[str]
    token: re.Pattern[str]


@lru_cache(maxsize=1024)
def _matcher(actions: tuple[str, ...]) -> _Matcher:
    by_text = {_normalised(action): action for action in reversed(actions)}
    # At one place the longest action counts, so "look at desk 1" is not also "look".
    texts = sorted(filter(None, by_text), key=len, reverse=True)
    if not texts:
        return _Matcher([], re.compile("(?!)"))
    # Looking for a first character before anything else makes the search about fifty times faster.
    first = "".join(re.escape(character) for character in sorted({text[0] for text in texts}))
    branches = "|".join(f"({_token_pattern(text)})" for text in texts)
    return _Matcher([by_text[text] for text in texts], re.compile(f"(?=[{first}])(?:{branches})"))


def _token_pattern(action: str) -> str:
    """A pattern for a normalised action that matches it as a whole token only."""
    words = r"\s++".join(re.escape(word) for word in action.split(" "))
    if not any(character.isalnum() for character in action):
        first, last = re.escape(action[0]), re.escape(action[-1])
        # An operator: not doubled ("**"), and not between two letters ("and/or").
        return rf"(?<!{first})(?:(?<![^\W\d_]){words}|{words}(?![^\W\d_]))(?!{last})"
    if not any(character.isalpha() for character in action):
        # A number: not part of a longer one.
        return rf"(?<!\w)(?<!\d\.){words}(?!\w|\.\d|,\d{{3}})"
    return rf"(?<!\w)(?<!\w-){words}(?!\w|-\w|\.\d)"

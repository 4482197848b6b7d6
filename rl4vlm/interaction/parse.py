# ruff: noqa: RUF001 - quotes and punctuation of other languages are meant
"""Parse a reply into an action: the paper's post-processing function f (section 4.2).

A model may write anything, so no form is assumed: every function here accepts every string, and takes time linear in
its length. To stay linear, repetitions in the patterns are possessive (`*+` never backtracks) or match disjoint parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from rl4vlm.core.types import Outcome, Parsed
from rl4vlm.interaction.match import QUOTES, actions_in
from rl4vlm.interaction.plain import original_offset, plain

_CLOSING = {quote: quote for quote in "\"'`”’"}
_CLOSING |= {"“": "”“", "„": "“”", "‟": "”", "‘": "’‘", "‚": "‘’", "‛": "’", "«": "»", "»": "«"}
"""For each opening quote, the quotes that close the string."""

_THINK = re.compile(r"(?ai:</?think(?:ing)?>)")
_WORD = re.compile(r"(?<![\w-])(?P<underscores>_{0,3})(?ai:action)(?P<closed>(?P=underscores))?(?!\w)")
_MARKS = r"[\s*]*+(?:</(?ai:[a-z]){1,10}>[\s*]*+)?"
_AFTER_WORD = re.compile(rf"{_MARKS}(?P<quote>\\?[{QUOTES}])?{_MARKS}[:：]")
_OPENING_MARKS = re.compile(r"(?:<(?ai:[a-z]){1,10}>)?\*{0,3}\Z")
_OPENING = re.compile(rf"\s*+(?P<escape>\\?)(?P<quote>[{QUOTES}])")
_END_OF_BARE_VALUE = re.compile(rf"[}}\n\r]|,\s*+[{QUOTES}][\w ]{{1,40}}+[{QUOTES}]\s*+:")
_NOT_SPACE = re.compile(r"\S|\Z")
_WITHIN_WORD = re.compile(r"(?<=\w)['’](?=\w)")


def parse_reply(text: str, actions: Sequence[str], aliases: Mapping[str, str] = MappingProxyType({})) -> Parsed:
    """Find the legal action that a reply names.

    - The key is the word `action` before a colon. Case, white space, quotes and emphasis (`**Action**:`, `__Action__:`,
      `<b>`) do not matter. If there are several keys, the last one counts.
    - What stands in a `<think>` block is no answer. An unfinished block is left out, and so is a finished one, unless
      nothing follows the last one.
    - The value is the quoted string after the key. If quotes are missing or not closed, it is the text up to the next
      `}`, line break or key.
    - The action is the only legal action that occurs in the value as a whole token (not `1` in `10`, `shelf 1` in
      `shelf 10`, or `*` in `**`). Case, white space and other text in the value do not matter.
    - Other characters for the same sign count as plain ones (`rl4vlm.interaction.plain`): a full-width digit is a
      digit; the signs of multiplication, division and subtraction, and LaTeX's names for them, are `*`, `/` and `-`.

    Args:
        text: the reply, any string.
        actions: the legal actions.
        aliases: other texts that name legal actions.

    Returns:
        The action (a member of `actions`) or the reason why there is none, and the character span of `text` from the
        key to the end.
    """
    readable = plain(text)
    begin, end = _answer(readable)
    readable = readable[:end]
    key = _last_key(readable, begin)
    if key is None:
        return Parsed(None, None, Outcome.NO_KEY)
    start, value_start = key
    # The plain text may be longer than the reply, and the span must fit the reply's tokens.
    span = (original_offset(text, start), len(text))
    found = actions_in(_value(readable, value_start), actions, aliases)
    if len(found) == 1:
        return Parsed(found.pop(), span, Outcome.OK)
    return Parsed(None, span, Outcome.AMBIGUOUS if found else Outcome.NO_LEGAL_ACTION)


def _answer(text: str) -> tuple[int, int]:
    """The offsets (begin, end) of the answer: after the last `<think>` block, and before one that is not closed."""
    begin, end = 0, len(text)
    # A template may have written the opening tag, so a closing one counts without it.
    for tag in _THINK.finditer(text):
        if tag[0].startswith("</"):
            begin, end = tag.end(), len(text)
        elif end == len(text):
            end = tag.start()
    return (begin if text[begin:end].strip() else 0), end


def _last_key(text: str, begin: int) -> tuple[int, int] | None:
    """The offsets at which the last key (with its quote and marks) and its value start; None without a key."""
    for word in reversed(list(_WORD.finditer(text, begin))):
        after = _AFTER_WORD.match(text, word.end())
        # Underscores that close neither before nor after the colon are part of another name: `_action:`.
        unclosed = "" if word["closed"] is not None else word["underscores"]
        if after is None or not text.startswith(unclosed, after.end()):
            continue
        ends = after.end() + len(unclosed)
        marks = _OPENING_MARKS.search(text, max(0, word.start() - 15), word.start())
        begins = marks.start() if marks else word.start()
        # Emphasis may close before the colon or after it (**Action:**). If it does not close, as in `2 *action:`, the
        # asterisks are not emphasis.
        stars = "*" * text.count("*", begins, word.start())
        ends += len(stars) if text.startswith(stars, ends) else 0
        if stars not in text[word.end() : ends]:
            begins = word.start()
        start = _start_of_key(text, begins, closed=after["quote"] is not None)
        if start is not None:
            return start, ends
    return None


def _start_of_key(text: str, word_start: int, *, closed: bool) -> int | None:
    """The offset of the key whose word is at `word_start`; None if the word only ends another key ("last action").

    `closed` says whether a quote follows the word.
    """
    at = word_start
    while at > 0 and text[at - 1].isspace():
        at -= 1
    before = text[at - 1] if at > 0 else ""
    # `before` may be empty, and the empty string is in every string.
    if before in QUOTES and before and (closed or at == word_start):
        # The model may have written JSON inside a JSON string: \\"action\\".
        escaped = at > 1 and text[at - 2] == "\\"
        return at - 2 if escaped else at - 1
    # A quote closes the key, but none opens it right before this word: the word ends a longer key ("last action"). But
    # at the start of an entry there is no longer key, and the model has only forgotten the opening quote.
    if closed and before not in ("", "{", "[", "(", ","):
        return None
    return word_start


def _value(text: str, start: int) -> str:
    """The value that starts at offset `start`."""
    opening = _OPENING.match(text, start)
    if opening is None:
        return _bare_value(text, start)
    inside = opening.end()
    end = _closing(text, inside, _CLOSING[opening["quote"]], escaped=bool(opening["escape"]))
    return _bare_value(text, inside) if end is None else text[inside:end]


def _bare_value(text: str, start: int) -> str:
    begins = _NOT_SPACE.search(text, start)
    start = begins.start() if begins else len(text)
    end = _END_OF_BARE_VALUE.search(text, start)
    return text[start : end.start() if end else len(text)]


def _closing(text: str, start: int, closing: str, *, escaped: bool) -> int | None:
    """The offset at which a quoted string ends; None if it does not end on its line.

    Args:
        text: the reply.
        start: the offset after the opening quote.
        closing: the quotes that may close the string.
        escaped: whether the opening quote had a backslash; then the closing quote must have one, and else must not.
    """
    # A loop, not one pattern for the whole string: possessive repetitions of groups, which would keep such a pattern
    # linear, match wrongly in Python 3.11.2 (Debian 12).
    for mark in _marks(closing).finditer(text, start):
        if mark[0] in "\n\r":
            return None
        if mark[0][0] == "\\":
            if escaped:
                return mark.start() if mark[0][1:] in closing else None
        # An apostrophe within a word (don't) closes nothing.
        elif not escaped and not _WITHIN_WORD.match(text, mark.start()):
            return mark.start()
    return None


@lru_cache(maxsize=16)
def _marks(closing: str) -> re.Pattern[str]:
    return re.compile(rf"\\.|[\n\r{re.escape(closing)}]")

# ruff: noqa: RUF001 - quotes and punctuation of other languages are meant
"""Parse a reply into an action: the paper's post-processing function f (section 4.2).

A model may write anything, so no form is assumed: every function here accepts every string, and takes time linear in
its length. To stay linear, repetitions in the patterns are possessive (`*+` never backtracks) or match disjoint parts.
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
"""For each opening quote, the quotes that close the string."""
_FINAL_PUNCTUATION = ".,;:!?…。，、；：！？"

_WORD = re.compile(r"(?<![\w-])(?ai:action)(?!\w)")
_AFTER_WORD = re.compile(rf"\s*+(?P<quote>\\?[{_QUOTES}]\s*+)?[:：]")
_OPENING = re.compile(rf"\s*+(?P<escape>\\?)(?P<quote>[{_QUOTES}])")
_END_OF_BARE_VALUE = re.compile(rf"[}}\n\r]|,\s*+[{_QUOTES}][\w ]{{1,40}}[{_QUOTES}]\s*+:")
_SPACES = re.compile(r"\s+")
_WITHIN_WORD = re.compile(r"(?<=\w)['’](?=\w)")


def parse_reply(text: str, actions: Sequence[str]) -> Parsed:
    """Find the legal action that a reply names.

    - The key is the word `action` before a colon. Case, white space and quotes around it do not matter. If there are
      several keys, the last one counts.
    - The value is the quoted string after the key. If quotes are missing or not closed, it is the text up to the next
      `}`, line break or key.
    - The action is the only legal action that occurs in the value as a whole token (not `1` in `10`, `shelf 1` in
      `shelf 10`, or `*` in `**`). Case, white space and other text in the value do not matter.
    - Look-alike characters count as plain ones (`rl4vlm.interaction.plain`): a full-width digit is a digit.

    Args:
        text: the reply, any string.
        actions: the legal actions.

    Returns:
        The action (a member of `actions`) or the reason why there is none, and the character span of `text` from the
        key to the end.
    """
    readable = plain(text)
    key = _last_key(readable)
    if key is None:
        return Parsed(None, None, Outcome.NO_KEY)
    start, value_start = key
    # The plain text may be longer than the reply, and the span must fit the reply's tokens.
    span = (original_offset(text, start), len(text))
    found = _actions_in(_value(readable, value_start), tuple(actions))
    if len(found) == 1:
        return Parsed(found.pop(), span, Outcome.OK)
    return Parsed(None, span, Outcome.AMBIGUOUS if found else Outcome.NO_LEGAL_ACTION)


def _last_key(text: str) -> tuple[int, int] | None:
    """The offsets at which the last key (with its opening quote) and its value start; None without a key."""
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
    """The offset of the key whose word is at `word_start`; None if the word only ends another key ("last action").

    `closed` says whether a quote follows the word.
    """
    at = word_start
    while at > 0 and text[at - 1].isspace():
        at -= 1
    before = text[at - 1] if at > 0 else ""
    # `before` may be empty, and the empty string is in every string.
    if before in _QUOTES and before and (closed or at == word_start):
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
    while start < len(text) and text[start].isspace():
        start += 1
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


def _actions_in(value: str, actions: tuple[str, ...]) -> set[str]:
    """The legal actions that occur in a value as whole tokens."""
    matcher = _matcher(actions)
    found = matcher.token.finditer(value.lower())
    return {matcher.actions[match.lastindex - 1] for match in found if match.lastindex}


def _normalised(text: str) -> str:
    """An action in lower case and plain characters, without outer quotes, extra white space and final punctuation."""
    return _SPACES.sub(" ", plain(text).strip().strip(_QUOTES + _FINAL_PUNCTUATION + " \t")).lower()


@dataclass(frozen=True)
class _Matcher:
    """Finds actions in text: group k of the pattern `token` matches `actions[k - 1]`, in lower case, as a token."""

    actions: list[str]
    token: re.Pattern[str]


@lru_cache(maxsize=1024)
def _matcher(actions: tuple[str, ...]) -> _Matcher:
    # Reversed, so that of two actions with the same normalised text the first one counts.
    by_text = {_normalised(action): action for action in reversed(actions)}
    # The longest first, since a pattern takes the first branch that matches: "look at desk 1" is not also "look".
    texts = sorted(filter(None, by_text), key=len, reverse=True)
    if not texts:
        # A pattern that never matches.
        return _Matcher([], re.compile("(?!)"))
    # Test the first character before all branches: this makes the search about fifty times faster.
    first = "".join(re.escape(character) for character in sorted({text[0] for text in texts}))
    branches = "|".join(f"({_token_pattern(text)})" for text in texts)
    return _Matcher([by_text[text] for text in texts], re.compile(f"(?=[{first}])(?:{branches})"))


def _token_pattern(action: str) -> str:
    """A pattern that matches a normalised action as a whole token only."""
    words = r"\s++".join(re.escape(word) for word in action.split(" "))
    if not any(character.isalnum() for character in action):
        first, last = re.escape(action[0]), re.escape(action[-1])
        # An operator, not doubled ("**") and not between two letters ("and/or").
        return rf"(?<!{first})(?:(?<![^\W\d_]){words}|{words}(?![^\W\d_]))(?!{last})"
    if not any(character.isalpha() for character in action):
        # A number, not part of a longer one ("10", "1.5", "1,000").
        return rf"(?<!\w)(?<!\d\.){words}(?!\w|\.\d|,\d{{3}})"
    # Words, not part of a longer word ("hits"), a compound ("hit-and-run") or a number ("shelf 1.5").
    return rf"(?<!\w)(?<!\w-){words}(?!\w|-\w|\.\d)"

"""Find legal actions in a text, as whole tokens.

The text comes from a model and may be long, so no pattern tries all actions at each character. An action that does not
occur in the text costs one substring search. For any other action, the pattern that is searched starts with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from rl4vlm.interaction.plain import plain

QUOTES = "\"'`“”„‟‘’‚‛«»"  # noqa: RUF001
_FINAL_PUNCTUATION = ".,;:!?…。，、；：！？"  # noqa: RUF001
_EMPHASIS = re.compile(r"(\*{1,3})(?!\s)([^*]+|\*)(?<!\s)\1[.,;:!?]*")
_UNDERSCORED = re.compile(r"(?<!\w)(_{1,3})(?!\s)([^_]+)(?<!\s)\1(?!\w)")
_TAG = re.compile(r"</?(?:b|i|u|em|strong|code|span|p|br)\s?/?>")
_LATEX = re.compile(r"\\{1,2}(times|cdot|div)(?![a-z])")


def actions_in(value: str, actions: Sequence[str], aliases: Mapping[str, str] = MappingProxyType({})) -> set[str]:
    """The legal actions that occur in a text as whole tokens; only two of them if there are more.

    An action inside a longer one that occurs (`look` in `look at desk 1`) does not count. Case, white space, tags and
    the names that LaTeX has for operators do not matter.

    Args:
        value: the text, in plain characters (`rl4vlm.interaction.plain`).
        actions: the legal actions.
        aliases: other texts for legal actions.
    """
    text = _unmarked(value)
    by_text = _by_text(tuple(actions), tuple(aliases.items()))
    occurring = [action for action in by_text if action in text]
    found: set[str] = set()
    for place, action in enumerate(occurring):
        token, rest = _token(action), text
        for longer in occurring[:place]:
            if action in longer:
                rest = _token(longer).sub("\n", rest)
        if token.search(rest):
            found.add(by_text[action])
        if len(found) > 1:
            break
    return found


def _unmarked(value: str) -> str:
    # Tags and emphasis are removed, because their slashes and asterisks are not operators. A LaTeX `\\times` is an
    # asterisk by now, so `*\\times*` is three asterisks and `**\\times**` is five: an operator in emphasis. Two or four
    # asterisks are no operator.
    text = _UNDERSCORED.sub(r"\2", _TAG.sub(" ", _normalised(value)))
    emphasised = _EMPHASIS.fullmatch(text)
    return emphasised[2] if emphasised else text


def _normalised(text: str) -> str:
    """A text in lower case, with single spaces, and with operators in place of their LaTeX names."""
    signs = _LATEX.sub(lambda name: "/" if name[1] == "div" else "*", text.lower())
    return " ".join(signs.split())


@lru_cache(maxsize=1024)
def _by_text(actions: tuple[str, ...], aliases: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Actions by their text in lower case and plain characters, the longest first."""
    by_text: dict[str, str] = {}
    # If two texts are equal after normalisation, the first one counts; actions come before aliases.
    for text, action in (*((action, action) for action in actions), *aliases):
        bare = _normalised(plain(text).strip().strip(QUOTES + _FINAL_PUNCTUATION + " \t"))
        if bare:
            by_text.setdefault(bare, action)
    return dict(sorted(by_text.items(), key=lambda entry: len(entry[0]), reverse=True))


@lru_cache(maxsize=4096)
def _token(action: str) -> re.Pattern[str]:
    """A pattern that matches a normalised action as a whole token only."""
    # The action comes first, and then what must stand before it: a pattern that starts with a literal is searched for
    # much faster.
    text = re.escape(action)
    if not any(character.isalnum() for character in action):
        first, last = re.escape(action[0]), re.escape(action[-1])
        # An operator, not doubled ("**") and not between two letters ("and/or").
        around = rf"(?<!{first}{text})(?!{last})(?:(?<![^\W\d_]{text})|(?![^\W\d_]))"
    elif not any(character.isalpha() for character in action):
        # A number, not part of a longer one ("10", "1.5", "1,000").
        around = rf"(?<!\w{text})(?<!\d\.{text})(?!\w|\.\d|,\d{{3}})"
    else:
        # Words, not part of a longer word ("hits"), a compound ("hit-and-run") or a number ("shelf 1.5").
        around = rf"(?<!\w{text})(?<!\w-{text})(?!\w|-\w|\.\d)"
    return re.compile(text + around)

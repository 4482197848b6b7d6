"""Replace characters by plain ones of the same meaning: full-width letters and digits, quotes, signs of mathematics.

Unicode has several code points for one sign, and models use them, above all in replies that mix languages. Each is
replaced by the character that action words are written with. This works one character at a time, so that an offset in
the plain text can be mapped back to the original.
"""

from __future__ import annotations

import unicodedata
from itertools import accumulate

_SIGNS = {"\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2217": "*", "\u00d7": "*", "\u22c5": "*"}
_SIGNS |= {"\u2215": "/", "\u00f7": "/"}
"""Other characters for the same sign, which NFKC keeps: minus and hyphens, three signs of multiplication and two of
division. Dashes stay: they separate words."""
LONGEST = 4
"""The longest plain form: no action is written with the ligatures that stand for whole words, and a reply of them would
grow eighteenfold."""
_OTHER_MEANING = ("<super>", "<sub>", "<fraction>")
"""Decompositions that would change the meaning: in 7², the 2 is not a digit of a number 72."""


def plain(text: str) -> str:
    """`text` with each character replaced by its NFKC form, which may be several characters; ASCII is unchanged."""
    return text if text.isascii() else text.translate(_PLAIN)


def original_offset(text: str, at: int) -> int:
    """The offset in `text` of the character that became the one at offset `at` of `plain(text)`."""
    if text.isascii() or at == 0:
        return at
    ends = accumulate(len(_PLAIN[ord(character)]) for character in text)
    return next((offset for offset, end in enumerate(ends) if end > at), len(text))


class _PlainForms(dict[int, str]):
    """Maps a code point to its plain form, which is never empty. Entries are computed when they are first needed."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kept = unicodedata.decomposition(character).startswith(_OTHER_MEANING)
        form = _SIGNS.get(character) or unicodedata.normalize("NFKC", character)
        self[code] = form = character if kept or len(form) > LONGEST else form
        return form


_PLAIN = _PlainForms()

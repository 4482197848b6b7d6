"""The plain form of characters that only look different: full-width letters, digits and quotes, a true minus sign.

Unicode has several code points for one sign, and models that write another language use them. Here each becomes the one
that action words are written with, a character at a time, so that a place in the plain text is a place in the original.
"""

from __future__ import annotations

import unicodedata
from itertools import accumulate

_SIGNS = {"\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2217": "*", "\u2215": "/"}
"""What NFKC leaves apart: minus, hyphens, and the mathematical asterisk and slash. Dashes separate, so they stay."""
_OTHER_MEANING = ("<super>", "<sub>", "<fraction>")
"""Kinds of NFKC twins that mean something else: the 2 of a square is no digit of the number before it."""


def plain(text: str) -> str:
    """`text` with each character in its plain form: NFKC's, one by one, which may be several; plain ASCII as it is."""
    return text if text.isascii() else text.translate(_PLAIN)


def original_offset(text: str, at: int) -> int:
    """The offset in `text` of the character that gave the one at offset `at` of `plain(text)`."""
    if text.isascii() or at == 0:
        return at
    ends = accumulate(len(_PLAIN[ord(character)]) for character in text)
    return next((offset for offset, end in enumerate(ends) if end > at), len(text))


class _PlainForms(dict[int, str]):
    """From a code point to its plain form, never empty; filled with what was asked for."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kept = unicodedata.decomposition(character).startswith(_OTHER_MEANING)
        form = character if kept else _SIGNS.get(character) or unicodedata.normalize("NFKC", character)
        self[code] = form
        return form


_PLAIN = _PlainForms()

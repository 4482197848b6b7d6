# ruff: noqa: RUF001 - quotes and punctuation of other languages are meant
"""Random changes of texts."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

PIECES = [
    *"\"'`“”‘’«»{}[]()<>:：,.;*-−×÷/\\=+_#|\n\r\t\0 １İſßﷺé½²\u200b\u202e\ud800\U0001f600",
    *(
        '"action"',
        "action",
        "Action:",
        '"thoughts": "',
        "<think>",
        "</think>",
        "**",
        "__",
        "```json",
        "\\times",
        "\\n",
        "null",
    ),
    *("<b>", "</b>", "\u0301", "'s", "don't", '", "', "}{", "  ", "put ", " in/on ", "hit", "10", "1.5", "NaN"),
]


def mutated(text: str, rng: Random, others: Sequence[str]) -> str:
    """`text` after one to six random changes: a part inserted, removed, repeated, moved, in the other case, or replaced
    by one of `others`."""
    for _ in range(rng.randint(1, 6)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.choice((1, 1, 2, 5, 20)))
        before, part, after = text[:start], text[start:end], text[end:]
        kind = rng.randrange(8)
        if kind <= 1:
            text = before + rng.choice(PIECES) + part + after
        elif kind == 2:
            text = before + after
        elif kind == 3:
            text = before + part * rng.choice((2, 3, 30)) + after
        elif kind == 4:
            text = after + part + before
        elif kind == 5:
            text = before + part.swapcase() + after
        elif kind == 6:
            other = rng.choice(others)
            text = before + other[rng.randint(0, len(other)) :]
        else:
            text = before + chr(rng.choice((rng.randrange(0x100), rng.randrange(0x3000), rng.randrange(0x110000))))
            text += part + after
    return text

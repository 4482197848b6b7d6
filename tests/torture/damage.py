"""Damages a file's content: cuts it, flips bits, writes zeros over it, or replaces all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

WHOLE = {
    "empty": b"",
    "a zero byte": b"\0",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 7\n",
    "an empty list": b"[]",
    "an empty object": b"{}",
    "null": b"null",
    "NaN": b"NaN",
    "a text": b'"text"',
    "a list of numbers": b"[1, 2]",
    "UTF-16": '\ufeff{"a": 1}'.encode("utf-16"),
    "no text": bytes(range(256)),
    "nested deeply": b"[" * 1000,
    "nested objects": b'{"a":' * 1000,
}
"""Contents that replace the whole file."""

NUMBER = re.compile(rb"(?<![\w.\"-])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.\"])")
WORD = re.compile(rb'"[^"\\\n]{1,40}"')
VALUES = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1", b"null", b'"x"', b"true", b"[]", b"{}", b"1" * 5000)


def damages(content: bytes, rng: Random, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged contents, each with a description: first the fixed ones, as many as `count` allows, then random
    ones."""
    fixed = {
        **WHOLE,
        "zeros": bytes(len(content)),
        "its first half": content[: len(content) // 2],
        "without its last byte": content[:-1],
        "with a byte more": content + b"\0",
    }
    first = list(fixed.items())[:count]
    yield from first
    for _ in range(count - len(first)):
        yield _randomly(content, rng)


def _randomly(content: bytes, rng: Random) -> tuple[str, bytes]:
    at = rng.randrange(len(content))
    end = min(len(content), at + rng.choice((1, 4, 64, 4096)))
    kind = rng.randrange(9)
    if kind == 0:
        return f"cut at {at}", content[:at]
    if kind <= 2:
        changed = bytearray(content)
        places = [rng.randrange(len(content)) for _ in range(rng.choice((1, 1, 1, 8, 64)))]
        for place in places:
            changed[place] ^= 1 << rng.randrange(8)
        return f"flipped bits of {places}", bytes(changed)
    if kind == 3:
        return f"zeros at {at}:{end}", content[:at] + bytes(end - at) + content[end:]
    if kind == 4:
        return f"without {at}:{end}", content[:at] + content[end:]
    if kind == 5:
        return f"twice {at}:{end}", content[:end] + content[at:]
    if kind == 6:
        lines = content.split(b"\n")
        line = rng.randrange(len(lines))
        return f"without line {line}", b"\n".join(lines[:line] + lines[line + 1 :])
    found = list((NUMBER if kind == 7 else WORD).finditer(content))
    if not found:
        return f"cut before {at}", content[at:]
    match, value = rng.choice(found), rng.choice(VALUES)
    return f"{value[:20]!r} at {match.start()}", content[: match.start()] + value + content[match.end() :]

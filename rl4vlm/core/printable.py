"""Text of others, made safe to show on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape control characters, except line breaks: a text of a model or a server could send commands with them."""
    return "".join(
        letter if letter == "\n" or letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )

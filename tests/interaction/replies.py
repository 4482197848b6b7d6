"""Legal actions and replies that the tests of the parser share."""

from __future__ import annotations

from rl4vlm.interaction.parse import parse_reply

LINE = ("-", "+")
FORMULA = (*map(str, range(1, 11)), "+", "-", "*", "/", "(", ")", "=")
JACK = ("stand", "hit")
HOUSE = (
    "go to shelf 1",
    "go to shelf 10",
    "go to desk 1",
    "look",
    "examine shelf 1",
    "take mug 1 from desk 1",
    "inventory",
)


def action(text: str, actions: tuple[str, ...]) -> str | None:
    return parse_reply(text, actions).action


def full_width(text: str) -> str:
    """Replace printable ASCII characters by their full-width forms, which Chinese and Japanese keyboards produce."""
    return "".join(
        "\u3000" if character == " " else chr(ord(character) + 0xFEE0) if "!" <= character <= "~" else character
        for character in text
    )

"""Pictures and models' texts on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from PIL import Image

UPPER_HALF, RESET = "▀", "\x1b[0m"
LEAST_COLUMNS = 60
"""Narrower than this, the digits in the pictures cannot be read."""


@dataclass(frozen=True)
class Screen:
    """A terminal of `columns` by `lines` characters, with 24-bit colours or 256."""

    columns: int
    lines: int
    true_colour: bool = True

    @property
    def side(self) -> int:
        """Side of a picture in pixels, two of which make a character's height: all of it in sight, if it can be."""
        wanted = max(2 * (self.lines - 2), LEAST_COLUMNS)
        return max(2, min(self.columns, wanted) // 2 * 2)


def find_screen(stream: TextIO = sys.stdout) -> Screen | None:
    """The terminal that `stream` writes to; None where it is none, or colours are not wanted (`NO_COLOR`)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return None
    size = shutil.get_terminal_size()
    return Screen(size.columns, size.lines, os.environ.get("COLORTERM") in ("truecolor", "24bit"))


def half_blocks(image: np.ndarray, screen: Screen) -> str:
    """A picture, (H, W, 3) uint8, as lines of half blocks: the upper pixel is the colour, the lower the ground."""
    small = np.asarray(Image.fromarray(image).resize((screen.side, screen.side), Image.Resampling.LANCZOS))
    lines = []
    for upper, lower in zip(small[0::2], small[1::2], strict=True):
        pairs = zip(upper.tolist(), lower.tolist(), strict=True)
        cells = [f"\x1b[38;{_colour(up, screen)};48;{_colour(low, screen)}m{UPPER_HALF}" for up, low in pairs]
        lines.append("".join(cells) + RESET)
    return "\n".join(lines)


def _colour(rgb: list[int], screen: Screen) -> str:
    if screen.true_colour:
        return "2;" + ";".join(map(str, rgb))
    # The nearest colour of the 6 by 6 by 6 cube that 256-colour terminals share.
    red, green, blue = (round(value / 255 * 5) for value in rgb)
    return f"5;{16 + 36 * red + 6 * green + blue}"


def printable(text: str) -> str:
    """A model's text without what a terminal would obey: control characters are spelt out, line breaks kept."""
    return "".join(
        letter if letter == "\n" or letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )

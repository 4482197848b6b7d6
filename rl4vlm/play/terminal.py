"""Shows images and model text on a terminal."""

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
"""The digits in the images cannot be read if an image has fewer columns than this."""


@dataclass(frozen=True)
class Screen:
    """The size of a terminal, in characters, and whether it shows 24-bit colours or only 256."""

    columns: int
    lines: int
    true_colour: bool = True

    @property
    def side(self) -> int:
        """Side of a square image in pixels: the largest that needs no scrolling, but `LEAST_COLUMNS` if they fit."""
        # One character shows two pixels, one above the other. Two lines stay free for text.
        wanted = max(2 * (self.lines - 2), LEAST_COLUMNS)
        return max(2, min(self.columns, wanted) // 2 * 2)


def find_screen(stream: TextIO | None = None) -> Screen | None:
    """The terminal that a stream writes to, standard output unless given.

    None if it is not a terminal, or if colours are off (`NO_COLOR`).
    """
    stream = stream or sys.stdout  # None if the caller closed it
    if stream is None or not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return None
    size = shutil.get_terminal_size()
    return Screen(size.columns, size.lines, os.environ.get("COLORTERM") in ("truecolor", "24bit"))


def half_blocks(image: np.ndarray, screen: Screen) -> str:
    """Draw an image, (H, W, 3) uint8, with half-block characters.

    Each character shows two pixels: the upper one in its text colour, the lower one in its background colour.
    """
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
    # Colours 16 to 231 of 256-colour terminals are a cube of 6 by 6 by 6.
    red, green, blue = (round(value / 255 * 5) for value in rgb)
    return f"5;{16 + 36 * red + 6 * green + blue}"

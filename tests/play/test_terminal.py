"""Images as half-block characters."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

from rl4vlm.play.terminal import Screen, find_screen, half_blocks

CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_character_holds_two_pixels() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[0] = (255, 0, 0)
    image[3, 2] = (0, 7, 255)
    lines = half_blocks(image, Screen(4, 50)).split("\n")
    assert len(lines) == 2
    assert all(line.endswith("\x1b[0m") for line in lines)
    cells = [[tuple(map(int, cell)) for cell in CELL.findall(line)] for line in lines]
    assert cells[0] == [(255, 0, 0, 0, 0, 0)] * 4
    assert cells[1][2] == (0, 0, 0, 0, 7, 255)


def test_a_terminal_with_256_colours() -> None:
    white = np.full((2, 2, 3), 255, dtype=np.uint8)
    assert half_blocks(white, Screen(2, 50, true_colour=False)).startswith("\x1b[38;5;231;48;5;231m▀")


@pytest.mark.parametrize(
    ("columns", "lines", "side"),
    [(200, 50, 96), (80, 24, 60), (41, 100, 40), (1, 1, 2)],
)
def test_the_image_fits_the_terminal(columns: int, lines: int, side: int) -> None:
    assert Screen(columns, lines).side == side


def test_finds_only_terminals_that_want_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    assert find_screen(io.StringIO()) is None
    with monkeypatch.context() as closed:
        closed.setattr("sys.stdout", None)  # as for `>&-` in a shell
        assert find_screen() is None
    screen = find_screen(Terminal())
    assert screen is not None
    assert not screen.true_colour
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert find_screen(Terminal()).true_colour  # type: ignore[union-attr]
    monkeypatch.setenv("NO_COLOR", "1")
    assert find_screen(Terminal()) is None

"""Draw scenes as RGB images of 300 by 300 pixels."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from rl4vlm.envs.card_art import draw_card, font
from rl4vlm.tasks.base import Scene, Text
from rl4vlm.tasks.cards import BACK

SIDE = 300


def check_card_art(folder: str | Path | None) -> str | None:
    """The folder of card images as a string, or None for the default cards. Raises ValueError if it is no folder."""
    if folder == "":  # Path("") would be the current folder
        raise ValueError("card_art is empty: name a folder of card images, or leave it out for the default cards")
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"card_art is not a folder: {str(folder)!r}")
    return None if folder is None else str(folder)


def draw(scene: Scene, card_art: str | None = None) -> np.ndarray:
    """Draw a scene.

    Args:
        scene: the background and the items on it.
        card_art: folder of images named like `HK.png`, with `card.png` for the back. None draws the default cards.

    Returns:
        A new array, (300, 300, 3) uint8.

    Raises:
        ValueError: the folder lacks an image; the message names its file.
    """
    image = Image.new("RGB", (SIDE, SIDE), scene.background)
    for item in scene.items:
        if isinstance(item, Text):
            left, top, mask = _letters(item.text, item.size, item.bold)
            image.paste(item.colour, (item.x + left, item.y + top), mask)
        else:
            image.paste(_card(item.card, item.width, item.height, card_art), (item.x, item.y))
    return np.array(image)


@lru_cache(maxsize=2048)
def _letters(text: str, size: int, bold: bool) -> tuple[int, int, Image.Image]:
    """A line of text as a mask, and the offset (left, top) at which Pillow would draw it."""
    left, top, right, bottom = map(int, font(size, bold).getbbox(text))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font(size, bold))
    return left, top, mask


@lru_cache(maxsize=512)
def _card(card: str, width: int, height: int, card_art: str | None) -> Image.Image:
    """A card at its size in pixels."""
    original = draw_card(card) if card_art is None else _open(Path(card_art), card)
    # As in the public code: Pillow's default filter, and transparency is dropped rather than blended.
    return original.resize((width, height)).convert("RGB")


def _open(folder: Path, card: str) -> Image.Image:
    file = folder / ("card.png" if card == BACK else f"{card}.png")
    if not file.is_file():
        raise ValueError(f"card_art has no image {str(file)!r}")
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.load()
            return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"card_art: the image {str(file)!r} cannot be read: {error}") from error

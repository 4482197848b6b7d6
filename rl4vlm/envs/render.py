"""Pictures of scenes: 300 by 300 pixels, RGB."""

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
    """The card art folder as given, or None for the default art. Raises ValueError where it is not a folder.

    An empty name is refused, too: it would be the folder that happens to be the current one.
    """
    if folder == "":
        raise ValueError("card_art is empty: name a folder of card pictures, or leave it out for the default cards")
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"card_art is not a folder: {str(folder)!r}")
    return None if folder is None else str(folder)


def draw(scene: Scene, card_art: str | None = None) -> np.ndarray:
    """A scene's picture, (300, 300, 3) uint8, owned by the caller.

    `card_art` is a folder of `HK.png`-style pictures with `card.png` for the back; None draws the default cards.
    Raises ValueError naming a picture that the folder lacks.
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
    """A line of text as a mask, and where its corner lies from the text's own (the ascender's height, as in Pillow)."""
    left, top, right, bottom = map(int, font(size, bold).getbbox(text))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font(size, bold))
    return left, top, mask


@lru_cache(maxsize=512)
def _card(card: str, width: int, height: int, card_art: str | None) -> Image.Image:
    """A card at its size. The filter is Pillow's default, and transparency is dropped, as in the public pictures."""
    original = draw_card(card) if card_art is None else _open(Path(card_art), card)
    return original.resize((width, height)).convert("RGB")


def _open(folder: Path, card: str) -> Image.Image:
    file = folder / ("card.png" if card == BACK else f"{card}.png")
    if not file.is_file():
        raise ValueError(f"card_art has no picture {str(file)!r}")
    with Image.open(file) as image:
        image.load()
        return image

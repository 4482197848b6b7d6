"""The default playing cards. Ranks are large and plain, so that they stay readable on a card 30 pixels wide."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rl4vlm.tasks.cards import BACK, TABLE, shown_rank

INK = {"H": "#c8102e", "D": "#c8102e", "C": "#111111", "S": "#111111"}
GLYPH = {"H": "♥", "D": "♦", "C": "♣", "S": "♠"}

# Cards are drawn at this size in pixels and then resized, as the images of a `card_art` folder are.
WIDTH, HEIGHT = 270, 378


def font_file(bold: bool) -> Path:
    """The DejaVu Sans file that matplotlib ships. Raises FileNotFoundError if matplotlib is not installed."""
    spec = importlib.util.find_spec("matplotlib")  # locates the package without the second that its import takes
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the font of the images comes with matplotlib, which is not installed: pip install matplotlib"
        )
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / name


@lru_cache(maxsize=32)
def font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans of a size in pixels."""
    # The other layout engine, Raqm, is not installed everywhere and spaces letters differently.
    return ImageFont.truetype(str(font_file(bold)), size, layout_engine=ImageFont.Layout.BASIC)


def draw_card(card: str) -> Image.Image:
    """A card of the default design, `WIDTH` by `HEIGHT` pixels: the rank above the suit, or the back."""
    image = Image.new("RGB", (WIDTH, HEIGHT), TABLE)
    pen = ImageDraw.Draw(image)
    pen.rounded_rectangle((0, 0, WIDTH - 1, HEIGHT - 1), radius=20, fill="#ffffff", outline="#444444", width=4)
    if card == BACK:
        _draw_back(pen)
        return image
    ink = INK[card[0]]
    _stamp(image, shown_rank(card), ink, (22, 20, WIDTH - 22, 222))
    _stamp(image, GLYPH[card[0]], ink, (40, 242, WIDTH - 40, HEIGHT - 18))
    return image


def _stamp(image: Image.Image, text: str, ink: str, box: tuple[int, int, int, int]) -> None:
    """Fill a box (left, top, right, bottom) with a text: to its full height, and squeezed if it is too wide."""
    large = font(400, True)
    left, top, right, bottom = large.getbbox(text)
    mask = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=large)
    height = box[3] - box[1]
    capital = large.getbbox("K")  # scaled as a K would be: the tail of the Q must not make its letter smaller
    scale = height / min(mask.height, int(capital[3] - capital[1]))
    width = min(box[2] - box[0], round(mask.width * scale))
    x = (box[0] + box[2] - width) // 2
    image.paste(ink, (x, box[1]), mask.resize((width, height)))


def _draw_back(pen: ImageDraw.ImageDraw) -> None:
    pen.rectangle((18, 18, WIDTH - 19, HEIGHT - 19), fill="#274690")
    for y in range(45, HEIGHT - 40, 36):
        for x in range(45, WIDTH - 40, 36):
            pen.polygon(((x, y - 14), (x + 14, y), (x, y + 14), (x - 14, y)), fill="#b8c7e8")

"""An episode as an animated GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rl4vlm.envs.card_art import font

CAPTION = 34
STEP_MS, END_MS = 1500, 3000


def film(frames: Sequence[tuple[np.ndarray, str]]) -> bytes:
    """A GIF of pictures, (H, W, 3) uint8 each, over their captions; the last one stays longer, then it starts again."""
    images = [_captioned(image, caption) for image, caption in frames]
    durations = [STEP_MS] * (len(images) - 1) + [END_MS]
    buffer = io.BytesIO()
    images[0].save(
        buffer, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, disposal=1
    )
    return buffer.getvalue()


def _captioned(image: np.ndarray, caption: str) -> Image.Image:
    height, width, _ = image.shape
    sheet = Image.new("RGB", (width, height + CAPTION), "#ffffff")
    sheet.paste(Image.fromarray(image), (0, 0))
    ImageDraw.Draw(sheet).text(
        (width / 2, height + CAPTION / 2), caption, fill="#222222", font=font(15, bold=True), anchor="mm"
    )
    return sheet.quantize(colors=256, dither=Image.Dither.NONE)

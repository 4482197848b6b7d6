"""Encodes an episode as an animated GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rl4vlm.envs.card_art import font

CAPTION_HEIGHT = 34
"""Height in pixels of the strip below the image."""
STEP_MS, END_MS = 1500, 3000
"""Milliseconds that a step and the last image are shown."""


def encode_gif(frames: Sequence[tuple[np.ndarray, str]]) -> bytes:
    """Encode frames as a GIF that repeats forever.

    Args:
        frames: an image, (H, W, 3) uint8, and the caption below it, for each step; the last frame is shown longer.
    """
    images = [_captioned(image, caption) for image, caption in frames]
    durations = [STEP_MS] * (len(images) - 1) + [END_MS]
    buffer = io.BytesIO()
    images[0].save(
        buffer, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, disposal=1
    )
    return buffer.getvalue()


def _captioned(image: np.ndarray, caption: str) -> Image.Image:
    height, width, _ = image.shape
    sheet = Image.new("RGB", (width, height + CAPTION_HEIGHT), "#ffffff")
    sheet.paste(Image.fromarray(image), (0, 0))
    ImageDraw.Draw(sheet).text(
        (width / 2, height + CAPTION_HEIGHT / 2), caption, fill="#222222", font=font(15, bold=True), anchor="mm"
    )
    # Dithering would put noise on the flat colours of the cards.
    return sheet.quantize(colors=256, dither=Image.Dither.NONE)

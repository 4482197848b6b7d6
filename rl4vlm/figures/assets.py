"""README's pictures and table: the games as the model sees them, and copies of results."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw

from rl4vlm.core.files import atomic_write_bytes, atomic_write_text
from rl4vlm.envs.card_art import font
from rl4vlm.envs.registration import make_env
from rl4vlm.envs.render import SIDE

SHOWN: dict[str, dict[str, object]] = {
    "NumberLine": {"current": 2, "target": 5},
    "EZPoints": {"cards": ["HK", "D2"]},
    "Points24": {"cards": ["C3", "D8", "S5", "HA"]},
    "Blackjack": {"dealer": ["SK", "C7"], "player": ["H9", "D5"]},
}
"""The games in the picture, and the start that each is shown at."""

MARGIN, LABEL = 12, 34
OPENING, CLOSING = "<!-- results-table -->", "<!-- /results-table -->"


def readme_assets(*, figures: Path, tables: Path, out: Path) -> None:
    """Write `games.png`, `training_curves.png` and `results.md` into `out`.

    Args:
        figures: folder of drawn figures.
        tables: folder of built tables.
        out: folder to write.

    Raises ValueError naming a figure or table that is missing.
    """
    curves = _content(figures / "training_curves.png")
    table = _content(tables / "main.md").decode("utf-8")
    atomic_write_bytes(out / "games.png", games_image())
    atomic_write_bytes(out / "training_curves.png", curves)
    atomic_write_text(out / "results.md", table)


def games_image() -> bytes:
    """A PNG of the games side by side, each as the model is shown it, under its name."""
    width = len(SHOWN) * SIDE + (len(SHOWN) + 1) * MARGIN
    sheet = Image.new("RGB", (width, LABEL + SIDE + MARGIN), "#ffffff")
    pen = ImageDraw.Draw(sheet)
    for place, (task, options) in enumerate(SHOWN.items()):
        x = MARGIN + place * (SIDE + MARGIN)
        env = make_env(task)
        image, _ = env.reset(seed=0, options=options)
        env.close()
        sheet.paste(Image.fromarray(image), (x, LABEL))
        pen.rectangle((x - 1, LABEL - 1, x + SIDE, LABEL + SIDE), outline="#999999")
        pen.text((x + SIDE / 2, LABEL / 2), task, fill="#222222", font=font(18, bold=True), anchor="mm")
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def insert_table(readme: Path, table_md: Path) -> None:
    """Put a table between the markers `<!-- results-table -->` and `<!-- /results-table -->` of a Markdown file.

    Raises ValueError where the table is missing, or where the file does not hold each marker once and in this order.
    """
    text = _content(readme).decode("utf-8")
    before, opening, rest = text.partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not closing or any(text.count(marker) != 1 for marker in (OPENING, CLOSING)):
        raise ValueError(f"{readme} must hold {OPENING} and, after it, {CLOSING}, each once")
    table = _content(table_md).decode("utf-8").strip()
    atomic_write_text(readme, f"{before}{opening}\n{table}\n{closing}{after}")


def _content(file: Path) -> bytes:
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    return file.read_bytes()

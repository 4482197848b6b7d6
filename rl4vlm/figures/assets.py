"""What README and the results page show: images, tables, and the page itself."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw

from rl4vlm.core.files import RECORD, atomic_write_all, read_text
from rl4vlm.core.lock import locked
from rl4vlm.envs.card_art import font
from rl4vlm.envs.registration import make_env
from rl4vlm.envs.render import SIDE
from rl4vlm.results.names import GAMES_IMAGE, README_TABLE, figures_beside, tables_in
from rl4vlm.results.page import existing, pages
from rl4vlm.results.provenance import read_record

SHOWN: dict[str, dict[str, object]] = {
    "NumberLine": {"current": 2, "target": 5},
    "EZPoints": {"cards": ["HK", "D2"]},
    "Points24": {"cards": ["C3", "D8", "S5", "HA"]},
    "Blackjack": {"dealer": ["SK", "C7"], "player": ["H9", "D5"]},
}
"""The games in the image, each with the state that it is shown in."""

MARGIN, LABEL = 12, 34
"""Pixels between games, and above them for their names."""
OPENING, CLOSING = "<!-- results-table -->", "<!-- /results-table -->"


def readme_assets(
    *, figures: Path, tables: Path, out: Path, command: str = "snakemake --cores all", readme: Path | None = None
) -> None:
    """Write what README shows (the image of the games, its table, copies of all figures) and the results page.

    No file is replaced before all of them are made.

    Args:
        figures: folder of drawn figures.
        tables: folder of built tables, inside of a results folder.
        out: folder to write. The results page may lie beside it (`page_in`).
        command: how Snakemake is called for these results, for the page.
        readme: a Markdown file to put the table into; see `with_table`.

    Raises:
        ValueError: a figure, a table or a run record is missing, `readme` has no place for the table, or another
            process is at work on `out`; the error names it.
    """
    with locked(out / ".lock"):
        texts = pages(tables=tables, out=out, command=command)
        if readme:
            texts[readme] = with_table(readme, texts[out / README_TABLE])
        shown = figures_beside(tables_in(read_record(tables / RECORD)))
        images = {out / f"{figure}.png": existing(figures / f"{figure}.png").read_bytes() for figure in shown}
        images[out / GAMES_IMAGE] = games_image()
        atomic_write_all(images | {path: text.encode() for path, text in texts.items()})


def with_table(readme: Path, table: str) -> str:
    """The text of a Markdown file with a table between `<!-- results-table -->` and `<!-- /results-table -->`.

    Raises:
        ValueError: the file does not hold each marker once and in this order.
    """
    text = read_text(readme)
    before, opening, rest = text.partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not closing or any(text.count(marker) != 1 for marker in (OPENING, CLOSING)):
        raise ValueError(f"{readme} must hold {OPENING} and, after it, {CLOSING}, each once")
    return f"{before}{opening}\n{table.strip()}\n{closing}{after}"


def games_image() -> bytes:
    """A PNG of the games side by side, each under its name and as the model sees it."""
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

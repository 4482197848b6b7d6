"""Names of tables, figures and what README shows of them, each written once."""

from __future__ import annotations

from pathlib import Path

TABLES = {
    "main": "main results",
    "differences": "differences on the same episodes",
    "ceiling": "share of the ceiling, and what the rolling peak flatters",
    "cot": "with and without thoughts",
    "lambda": "weight of the thoughts",
    "perception": "perception accuracy",
}
"""The tables with their titles in the report. To add one, also write its caption, `workflow/report/table_*.rst`."""
TABLE_KINDS = ("csv", "md", "tex")

FIGURES = {
    "training_curves": "rl4vlm.figures.training_curves:figure",
    "cot_ablation": "rl4vlm.figures.cot_ablation:figure",
    "lambda_ablation": "rl4vlm.figures.lambda_ablation:figure",
    "logprob_balance": "rl4vlm.figures.logprob_balance:figure",
    "perception": "rl4vlm.figures.perception:figure",
}
"""The figures with the functions that draw them. To add one, also write a caption, `workflow/report/figure_*.rst`."""
FIGURE_KINDS = ("pdf", "png")

GAMES_IMAGE = "games.png"
README_TABLE = "results.md"


def table_files() -> list[str]:
    """The files of all tables, relative to the folder of tables."""
    return [f"{name}.{kind}" for name in TABLES for kind in TABLE_KINDS]


def figure_files() -> list[str]:
    """The files of all figures, relative to the folder of figures."""
    return [f"{name}.{kind}" for name in FIGURES for kind in FIGURE_KINDS]


def asset_files(assets: Path) -> list[Path]:
    """What README and the page of results show: images, README's table and the page itself."""
    names = [GAMES_IMAGE, *(f"{name}.png" for name in FIGURES), README_TABLE]
    return [*(assets / name for name in names), page_in(assets)]


def page_in(assets: Path) -> Path:
    """The page of results: `docs/results.md` for `docs/assets`, and inside of `assets` for any other folder.

    Other scales write to a folder of their own, and nothing outside of it.
    """
    return assets.parent / "results.md" if assets.parts[-2:] == ("docs", "assets") else assets / "page.md"

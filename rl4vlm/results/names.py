"""Names of the files of tables and figures, and of the copies that README shows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

TABLES = {
    "main": "main results",
    "differences": "differences on the same episodes",
    "ceiling": "share of the ceiling, and what the rolling peak flatters",
    "cot": "with and without thoughts",
    "lambda": "weight of the thoughts",
    "ablations": "variants of the method",
    "perception": "perception accuracy",
}
"""The tables with their titles in the report; `cot`, `lambda` and `ablations` only if there are such runs. To add one,
also write its caption, `workflow/report/table_*.rst`."""
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
TABLE_OF = {"cot_ablation": "cot", "lambda_ablation": "lambda"}
"""Figures that show the runs of a table. They are drawn only if that table is made."""

GAMES_IMAGE = "games.png"
README_TABLE = "results.md"


def table_files(tables: Iterable[str] = TABLES) -> list[str]:
    """The files of tables, relative to their folder."""
    return [f"{name}.{kind}" for name in tables for kind in TABLE_KINDS]


def tables_in(record: Mapping[str, Any]) -> list[str]:
    """The tables that are in a folder, by the content of its `run.json`."""
    return [name for name in TABLES if f"{name}.csv" in record["outputs"]]


def figures_beside(tables: Collection[str]) -> list[str]:
    """The figures of results that have these tables."""
    return [name for name in FIGURES if name not in TABLE_OF or TABLE_OF[name] in tables]


def figure_files(tables: Collection[str] = TABLES) -> list[str]:
    """The files of the figures of results that have these tables, relative to the folder of figures."""
    return [f"{name}.{kind}" for name in figures_beside(tables) for kind in FIGURE_KINDS]


def asset_files(assets: Path, tables: Collection[str] = TABLES) -> list[Path]:
    """What README and the page of results show: images, README's table and the page itself."""
    names = [GAMES_IMAGE, *(f"{name}.png" for name in figures_beside(tables)), README_TABLE]
    return [*(assets / name for name in names), page_in(assets)]


def page_in(assets: Path) -> Path:
    """The page of results: `docs/results.md` for `docs/assets`, `docs/results-NAME.md` for `docs/assets/NAME`, and
    inside of `assets` for any other folder.

    Only the configs whose results are published write to `docs`. All others write nothing outside of their own folder.
    """
    if assets.parts[-2:] == ("docs", "assets"):
        return assets.parent / "results.md"
    if assets.parts[-3:-1] == ("docs", "assets"):
        return assets.parents[1] / f"results-{assets.name}.md"
    return assets / "page.md"

"""Numbers that were not computed here: the paper's, and those of reference policies (sources: `data/README.md`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import pandas as pd

PAPER = "arXiv 2405.10292"


class Rate(NamedTuple):
    """A success rate in percent of `method` on `task`."""

    method: str
    task: str
    success_rate: float


class Curve(NamedTuple):
    """A published training curve, read by eye: environment steps of one process, success in percent (±1.5 points)."""

    figure: str
    task: str
    method: str
    env_steps: tuple[float, ...]
    success_rates: tuple[float, ...]


@cache
def published_rates() -> tuple[Rate, ...]:
    """The paper's tables 2 and 3, in the order of the file."""
    return _rates("main_results.csv")


@cache
def later_rates() -> dict[str, tuple[Rate, ...]]:
    """Rates that later works report on these tasks, by work. They are quoted, and measured by other protocols."""
    found = _read("later_work.csv").groupby("work", sort=False)
    return {str(work): tuple(_as_rates(rows)) for work, rows in found}


@cache
def later_citations() -> dict[str, str]:
    """Where each of the later works was published."""
    found = _read("later_work.csv", dtype={"arxiv": str}).drop_duplicates("work").set_index("work")["arxiv"]
    return {str(work): f"arXiv {number}" for work, number in found.items()}


@cache
def reference_rates() -> tuple[Rate, ...]:
    """Random, optimal and simple play, enumerated or measured on the rules of the games."""
    return _rates("reference_policies.csv")


@cache
def published_curves() -> tuple[Curve, ...]:
    """The curves of figures 5 (`main`), 6 (`cot`) and 7 (`lambda`); λ runs are named `RL4VLM lambda=0.3`."""
    points = _read("curves_read_by_eye.csv")
    points["method"] = points["series"].where(~points["series"].str.startswith("lambda="), "RL4VLM " + points["series"])
    curves = []
    for key, curve in points.groupby(["figure", "task", "method"], sort=False):
        figure, task, method = map(str, key)
        curves.append(Curve(figure, task, method, tuple(curve["env_steps"]), tuple(curve["success_rate_percent"])))
    return tuple(curves)


@cache
def published_lambda_peaks() -> tuple[Rate, ...]:
    """The peak of each published λ curve, read by eye off figure 7 (±1.5 points)."""
    curves = [curve for curve in published_curves() if curve.figure == "lambda"]
    return tuple(Rate(curve.method, curve.task, max(curve.success_rates)) for curve in curves)


def _rates(file: str) -> tuple[Rate, ...]:
    return tuple(_as_rates(_read(file)))


def _as_rates(rows: pd.DataFrame) -> Iterator[Rate]:
    for method, task, rate in rows[["method", "task", "success_rate_percent"]].itertuples(index=False):
        yield Rate(method, task, float(rate))


def _read(file: str, dtype: Mapping[str, type] | None = None) -> pd.DataFrame:
    with files("rl4vlm.results").joinpath("data", file).open(encoding="utf-8") as content:
        return pd.read_csv(content, dtype=dict(dtype or {}))

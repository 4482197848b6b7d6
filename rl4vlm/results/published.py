"""The numbers that were not computed here: the paper's, and those of reference policies (see published/README.md)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

PAPER = "arXiv 2405.10292"

REFERENCE_METHODS = {
    "uniform random": "random",
    "optimal": "solver",
    "solvable hands, exact arithmetic": "solver",
    "maximise expected reward": "solver",
    "stand on 17 or more": "stand on 17",
}
"""Reference policies that this project's own `random` and `solver` play; the others keep their names."""


@dataclass(frozen=True)
class Rate:
    """A success rate in percent of `method` on `task`."""

    method: str
    task: str
    success_rate: float


@dataclass(frozen=True)
class Curve:
    """A published training curve, read by eye: environment steps of one process, success in percent (±1.5 points)."""

    figure: str
    task: str
    method: str
    env_steps: tuple[float, ...]
    success_rates: tuple[float, ...]


@dataclass(frozen=True)
class Balance:
    """Mean magnitude, in nats, of the summed log-probability of a reply's thoughts and of its action."""

    task: str
    thoughts: float
    action: float


@cache
def published_rates() -> tuple[Rate, ...]:
    """The paper's main table, its ablation without thoughts included, in the order of the file."""
    return tuple(
        Rate(row["method"], row["task"], float(row["success_rate_percent"])) for row in _rows("main_results.csv")
    )


@cache
def reference_rates() -> tuple[Rate, ...]:
    """Random, optimal and simple play, enumerated or measured on the games' rules."""
    return tuple(
        Rate(REFERENCE_METHODS.get(row["policy"], row["policy"]), row["task"], float(row["success_rate_percent"]))
        for row in _rows("reference_policies.csv")
    )


@cache
def published_curves() -> tuple[Curve, ...]:
    """The curves of figures 5 (`main`), 6 (`cot`) and 7 (`lambda`); λ runs are named `RL4VLM lambda=0.3`."""
    points: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in _rows("curves_read_by_eye.csv"):
        method = f"RL4VLM {row['series']}" if row["series"].startswith("lambda=") else row["series"]
        point = float(row["env_steps"]), float(row["success_rate_percent"])
        points.setdefault((row["figure"], row["task"], method), []).append(point)
    return tuple(
        Curve(*key, env_steps=tuple(x for x, _ in curve), success_rates=tuple(y for _, y in curve))
        for key, curve in points.items()
    )


@cache
def published_lambda_peaks() -> tuple[Rate, ...]:
    """The peak of each published λ curve, read by eye off figure 7 (±1.5 points)."""
    return tuple(
        Rate(curve.method, curve.task, max(curve.success_rates))
        for curve in published_curves()
        if curve.figure == "lambda"
    )


@cache
def published_balances() -> tuple[Balance, ...]:
    """What is known of the paper's table 1."""
    return tuple(
        Balance(row["task"], float(row["thoughts"]), float(row["action"])) for row in _rows("logprob_balance.csv")
    )


def _rows(file: str) -> list[dict[str, str]]:
    text = files("rl4vlm.results").joinpath("data", file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))

"""Checks the claims of a file about results against the tables of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from rl4vlm.config.fields import Weight, settings
from rl4vlm.core.files import read_yaml


@settings
class Claim:
    """What is claimed, and the one cell of a CSV file that shows it."""

    claim: str
    """In words."""
    file: str
    """The CSV file, in the results folder."""
    row: dict[str, str] = field(default_factory=dict)
    """What the columns of its row hold."""
    column: str
    """The column of the cell."""
    value: float | str
    """What the cell holds: a number, or a text such as a verdict."""
    tolerance: Weight = 0.0
    """How far a number may be from `value`: other machines round differently, so that trainings end differently."""


def load_claims(file: Path, results_dir: str) -> list[Claim]:
    """The claims about a config's `results_dir`, if any. Raises ValueError naming what is wrong with the file."""
    try:
        claims = TypeAdapter(dict[str, list[Claim]]).validate_python(read_yaml(file) or {})
    except (OSError, ValidationError) as error:
        raise ValueError(f"{file} holds no claims: {error}") from None
    # Compared as paths, so that `results/` equals `results`.
    return [claim for folder, of_it in claims.items() if Path(folder) == Path(results_dir) for claim in of_it]


def broken_claims(claims: Sequence[Claim], results: Path) -> list[str]:
    """A message for each claim that does not hold for a results folder, with what was found instead."""
    found = [(claim, _problem(claim, results / claim.file)) for claim in claims]
    return [f"{claim.claim} ({claim.file}): {problem}" for claim, problem in found if problem]


def _problem(claim: Claim, file: Path) -> str | None:
    if not file.is_file():
        return "the file is missing"
    try:
        rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    except ValueError as error:
        return f"the file is no table: {error}"
    unknown = [name for name in (*claim.row, claim.column) if name not in rows]
    if unknown:
        return f"there is no column {unknown[0]!r}"
    for name, wanted in claim.row.items():
        rows = rows[rows[name] == wanted]
    if len(rows) != 1:
        return f"{len(rows)} rows have {claim.row}, not one"
    cell = rows[claim.column].iloc[0]
    if isinstance(claim.value, str):
        return None if cell == claim.value else f"{claim.column} is {cell!r}, not {claim.value!r}"
    number = pd.to_numeric(cell, errors="coerce")
    # Not `> tolerance`: an empty cell becomes NaN, for which every comparison is false, so the claim must fail here.
    holds = abs(number - claim.value) <= claim.tolerance
    return None if holds else f"{claim.column} is {cell or 'empty'}, not {claim.value:g} ± {claim.tolerance:g}"

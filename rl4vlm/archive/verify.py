"""Verifies an unpacked archive: no file has changed, and tables and figures follow from the packed metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from rl4vlm.archive.layout import DRAWS, RESULTS, SUMS
from rl4vlm.archive.records import Shown, differences, read_shown
from rl4vlm.config.settings import build_settings
from rl4vlm.core.files import RECORD, sha256_of
from rl4vlm.figures.draw import draw
from rl4vlm.figures.style import FigureStyle
from rl4vlm.results.names import FIGURE_KINDS, FIGURES, table_files
from rl4vlm.results.tables import build_tables


@dataclass(frozen=True)
class Verdict:
    """The number of files compared with their checksums, the number of files rebuilt, and all problems."""

    compared: int
    rebuilt: int
    problems: tuple[str, ...]


def verify(folder: Path) -> Verdict:
    """Verify an unpacked archive.

    If a file was changed, nothing is rebuilt and only the changes are reported.

    Args:
        folder: the unpacked archive.

    Returns:
        The verdict. Each problem names its file.

    Raises:
        ValueError: `folder` is not an archive, or a manifest or record cannot be read.
    """
    sums = read_sums(folder / SUMS)
    problems = [*_changed(folder, sums), *_added(folder, sums)]
    if problems:
        return Verdict(len(sums), 0, tuple(problems))
    results = folder / RESULTS
    tables = read_shown(results, f"tables/{RECORD}")
    figures = {name: read_shown(results, f"figures/{name}.{RECORD}") for name in FIGURES}
    problems = [difference for shown in (tables, *figures.values()) for difference in differences(results, shown)]
    if problems:
        return Verdict(len(sums), 0, tuple(dict.fromkeys(problems)))
    with tempfile.TemporaryDirectory() as scratch:
        again = Path(scratch)
        made = [*_rebuild_tables(results, tables, again), *_rebuild_figures(results, figures, again)]
        different = [(name, shown) for name, shown in made if not _same(results / name, again / name)]
    return Verdict(len(sums), len(made), tuple(_difference(results, name, shown) for name, shown in different))


def read_sums(file: Path) -> dict[str, str]:
    """Read a manifest: SHA-256 by file. Raises ValueError if it is missing or a line is malformed."""
    if not file.is_file():
        raise ValueError(f"{file.parent} is no unpacked archive: {SUMS} is missing")
    found: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        sha256, _, name = line.partition("  ")
        path = PurePosixPath(name)
        # A manifest must not make us read files outside the archive.
        if len(sha256) != 64 or not name or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{file}, line {number}: not a checksum and a file of the archive: {line!r}")
        found[name] = sha256
    return found


def _changed(folder: Path, sums: dict[str, str]) -> Iterator[str]:
    for name, sha256 in sums.items():
        found = sha256_of(folder / name)
        if found is None:
            yield f"{name}: missing"
        elif found != sha256:
            yield f"{name}: changed (sha256 {found}, {SUMS} says {sha256})"


def _added(folder: Path, sums: dict[str, str]) -> Iterator[str]:
    """Results that were not packed. New files elsewhere, such as a virtual environment, do no harm."""
    for file in sorted((folder / RESULTS).rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name not in sums:
            yield f"{name}: not in {SUMS}"


def _inputs(results: Path, shown: Shown) -> dict[str, Any]:
    return {
        "evaluations": [results / name for name in shown.evaluations],
        "training_runs": [results / name for name in shown.training_runs],
        "base_perceptions": {task: results / name for task, name in shown.base_perceptions.items()},
        "scale": shown.settings["scale"],
        "thought_prob_coef": shown.settings["thought_prob_coef"],
    }


def _rebuild_tables(results: Path, shown: Shown, again: Path) -> list[tuple[str, Shown]]:
    build_tables(out=again / "tables", **_inputs(results, shown))
    return [(f"tables/{name}", shown) for name in table_files()]


def _rebuild_figures(results: Path, figures: dict[str, Shown], again: Path) -> list[tuple[str, Shown]]:
    for name, shown in figures.items():
        style = build_settings(FigureStyle, shown.settings["style"])
        draw(name, out=again / "figures" / name, style=style, **_inputs(results, shown))
    return [(f"figures/{name}.{kind}", shown) for name, shown in figures.items() for kind in FIGURE_KINDS]


def _same(packed: Path, rebuilt: Path) -> bool:
    return packed.is_file() and packed.read_bytes() == rebuilt.read_bytes()


def _difference(results: Path, name: str, shown: Shown) -> str:
    if not (results / name).is_file():
        return f"{RESULTS}/{name}: missing"
    others = [
        f"{package} {here or 'none'} here, {shown.packages[package]} then"
        for package in DRAWS
        if package in shown.packages and (here := _installed(package)) != shown.packages[package]
    ]
    why = f" ({'; '.join(others)})" if others else ""
    return f"{RESULTS}/{name}: the file rebuilt from the packed results differs{why}"


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

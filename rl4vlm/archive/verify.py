"""Verifies an unpacked archive: no file has changed, and tables and figures follow from the packed metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from rl4vlm.archive.layout import DRAWS, RESULTS, SUMS
from rl4vlm.config.settings import build_settings
from rl4vlm.core.files import RECORD, read_json, read_text, sha256_of
from rl4vlm.core.lock import scratch_folder
from rl4vlm.figures.draw import draw
from rl4vlm.figures.style import FigureStyle
from rl4vlm.results.names import FIGURE_KINDS, figures_beside, table_files, tables_in
from rl4vlm.results.output_record import OutputRecord, differences, read_output_record
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
    tables = read_output_record(results, f"tables/{RECORD}")
    shown = tables_in(read_json(results / "tables" / RECORD))
    figures = {name: read_output_record(results, f"figures/{name}.{RECORD}") for name in figures_beside(shown)}
    problems = [difference for output in (tables, *figures.values()) for difference in differences(results, output)]
    if problems:
        return Verdict(len(sums), 0, tuple(dict.fromkeys(problems)))
    with scratch_folder("rl4vlm-verify-") as rebuilt:
        made = [*_rebuild_tables(results, tables, shown, rebuilt), *_rebuild_figures(results, figures, rebuilt)]
        different = [(name, output) for name, output in made if not _same(results / name, rebuilt / name)]
    return Verdict(len(sums), len(made), tuple(_difference(results, name, output) for name, output in different))


def read_sums(file: Path) -> dict[str, str]:
    """Read a manifest: SHA-256 by file. Raises ValueError if it is missing or a line is malformed."""
    if not file.is_file():
        raise ValueError(f"{file.parent} is no unpacked archive: {SUMS} is missing")
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
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


def _inputs(results: Path, output: OutputRecord) -> dict[str, Any]:
    """The arguments of `build_tables` and `draw` that an output was made with."""
    return {
        "evaluations": [results / name for name in output.evaluations],
        "training_runs": [results / name for name in output.training_runs],
        "base_perceptions": {task: results / name for task, name in output.base_perceptions.items()},
        "scale": output.settings["scale"],
        "thought_prob_coef": output.settings["thought_prob_coef"],
    }


def _rebuild_tables(
    results: Path, output: OutputRecord, shown: list[str], rebuilt: Path
) -> list[tuple[str, OutputRecord]]:
    """Build the tables again below `rebuilt`. Returns the path of each file, with its record."""
    build_tables(out=rebuilt / "tables", **_inputs(results, output))
    return [(f"tables/{name}", output) for name in table_files(shown)]


def _rebuild_figures(results: Path, figures: dict[str, OutputRecord], rebuilt: Path) -> list[tuple[str, OutputRecord]]:
    """Draw the figures again below `rebuilt`. Returns the path of each file, with its record."""
    for name, output in figures.items():
        style = build_settings(FigureStyle, output.settings["style"])
        draw(name, out=rebuilt / "figures" / name, style=style, **_inputs(results, output))
    return [(f"figures/{name}.{kind}", output) for name, output in figures.items() for kind in FIGURE_KINDS]


def _same(packed: Path, rebuilt: Path) -> bool:
    return packed.is_file() and packed.read_bytes() == rebuilt.read_bytes()


def _difference(results: Path, name: str, output: OutputRecord) -> str:
    """The message about a file that was not rebuilt as packed, with the packages that have another version here."""
    if not (results / name).is_file():
        return f"{RESULTS}/{name}: missing"
    others = [
        f"{package} {here or 'none'} here, {output.packages[package]} then"
        for package in DRAWS
        if package in output.packages and (here := _installed(package)) != output.packages[package]
    ]
    why = f" ({'; '.join(others)})" if others else ""
    return f"{RESULTS}/{name}: the file rebuilt from the packed results differs{why}"


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

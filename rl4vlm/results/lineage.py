"""Which runs a result came from, by their `run.json`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from rl4vlm.core.files import RECORD
from rl4vlm.results.provenance import read_record


def place_of(path: str) -> str:
    """Place of a recorded file in its results folder, wherever that was: `eval/<run>/<file>`."""
    return str(PurePosixPath(*PurePosixPath(path).parts[-3:]))


def runs_behind(results: Path, folders: Iterable[str]) -> list[str]:
    """These run folders and all that they came from by their records, e.g. the training of an evaluated policy.

    Args:
        results: folder of results.
        folders: run folders by place in it (`eval/<run>`, `base_model/<name>`).

    Returns:
        Sorted places. Inputs outside of the results folder, such as demonstrations that were given, are not followed.

    Raises:
        ValueError: a record is missing; the error names it.
    """
    todo, found = sorted(set(folders)), set()
    while todo:
        folder = todo.pop()
        if folder not in found:
            found.add(folder)
            inputs = read_record(results / folder / RECORD)["inputs"]
            todo += [run for entry in inputs.values() if (run := _run_of(results, entry["path"])) is not None]
    return sorted(found)


def _run_of(results: Path, path: str) -> str | None:
    """The run folder in `results` that a recorded path (of a run, or its checkpoint) names; None if there is none."""
    place = "/".join(PurePosixPath(path.removesuffix("/checkpoint")).parts[-2:])
    return place if place and (results / place).is_dir() else None

"""Which runs a result depends on, read from the `run.json` of each run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from rl4vlm.core.files import RECORD
from rl4vlm.results.provenance import CHECKPOINT, read_record


def place_of(path: str) -> str:
    """The path of a recorded file relative to its results folder, wherever that was: `eval/<run>/<file>`."""
    return str(PurePosixPath(*PurePosixPath(path).parts[-3:]))


def runs_behind(results: Path, folders: Iterable[str]) -> list[str]:
    """These run folders and all runs that they depend on, such as the training of an evaluated policy.

    Args:
        results: folder of results.
        folders: run folders relative to it (`eval/<run>`, `base_model/<name>`).

    Returns:
        Run folders relative to `results`, sorted. Inputs outside of it, such as given demonstrations, are not followed.

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
    """The run folder in `results` that a recorded path leads to (a run's or its checkpoint's); None if not found."""
    place = "/".join(PurePosixPath(path.removesuffix(f"/{CHECKPOINT}")).parts[-2:])
    return place if place and (results / place).is_dir() else None

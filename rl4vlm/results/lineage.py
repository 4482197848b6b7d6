"""Which runs a result depends on, read from the `run.json` of each run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from rl4vlm.core.files import RECORD, sha256_of_folder
from rl4vlm.results.provenance import CHECKPOINT, KEPT, read_record, run_folder


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
            made_by = (run_that_wrote(entry, results) for entry in inputs.values())
            todo += [run.relative_to(results).as_posix() for run in made_by if run is not None]
    return sorted(found)


def run_that_wrote(entry: Mapping[str, Any], results: Path | None = None) -> Path | None:
    """The folder of the run that wrote an input of another run: a checkpoint of it, or the folder as a whole.

    Args:
        entry: the input, from the record of the run that read it.
        results: the results folder to look in, since the results may have been moved; None looks where the path leads.

    Returns:
        The folder; None if it is not there, or if its record lists another checkpoint by now.
    """
    # Where the path leads may be a link; other results have a run of the same stage and name.
    path = PurePosixPath(entry["path"] if results else Path(entry["path"]).resolve())
    whole = path.name != CHECKPOINT and path.parent.name != KEPT
    folder = path if whole else run_folder(path)
    place = folder.relative_to(folder.anchor).parts[-2:]
    run = Path(folder) if results is None else results.joinpath(*place)
    if len(place) < 2 or not run.is_dir():
        return None
    # A whole folder is not compared: its checksum is also of the record, which may have been made anew.
    wrote = None if whole else _checksum_in_record(run, path.relative_to(folder))
    return run if None in (wrote, entry.get("sha256")) or wrote == entry["sha256"] else None


def _checksum_in_record(run: Path, folder: PurePosixPath) -> str | None:
    """The `sha256_of` a folder in a run's, by the run's record: weights may have been removed to save space.

    Returns:
        None if the record has no checksums.
    """
    record = run / RECORD
    outputs = read_record(record).get("outputs") if record.is_file() else None
    if not outputs:
        return None
    files = {PurePosixPath(name): checksum for name, checksum in outputs.items()}
    return sha256_of_folder(
        {file.relative_to(folder).as_posix(): files[file] for file in files if file.is_relative_to(folder)}
    )

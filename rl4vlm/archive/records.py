"""What run records say of the results that tables and figures are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rl4vlm.core.files import RECORD, read_json, sha256_of


@dataclass(frozen=True)
class Shown:
    """A figure, or the tables of a results folder, by the record beside it.

    `record` is its place in the results folder. `inputs` maps each file that it was made of, by its place in the
    results folder, to its SHA-256 then; in the order in which they were read. `base_readings` names by task those that
    say how its base model reads.
    """

    record: str
    settings: Mapping[str, Any]
    packages: Mapping[str, str]
    inputs: Mapping[str, str]
    base_perceptions: Mapping[str, str]

    @property
    def evaluations(self) -> list[str]:
        """The folders of its evaluations."""
        return [str(PurePosixPath(name).parent) for name in self.inputs if name.endswith("/summary.json")]

    @property
    def training_runs(self) -> list[str]:
        """The folders of its training runs."""
        return [str(PurePosixPath(name).parent) for name in self.inputs if name.endswith("/metrics.jsonl")]


def read_shown(results: Path, record: str) -> Shown:
    """Read the record of the tables, of a figure or of the gallery. Raises ValueError naming one that is none."""
    found = read_json(results / record)
    try:
        settings, entries = dict(found["settings"]), dict(found["inputs"])
        return Shown(
            record=record,
            settings=settings,
            packages=dict(found["packages"]),
            inputs={_place(entry["path"]): str(entry["sha256"]) for entry in entries.values()},
            base_perceptions={
                task: _place(entries[name]["path"]) for task, name in settings.get("base_perceptions", {}).items()
            },
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{results / record} is no record of a table or figure: {error!r}") from error


def _place(path: str) -> str:
    """Where a file lies in its results folder, wherever that was: `eval/<run>/<file>`, `base_model/<name>/<file>`."""
    return str(PurePosixPath(*PurePosixPath(path).parts[-3:]))


def differences(results: Path, shown: Shown) -> Iterator[str]:
    """What of the files that it was made of is missing here, or is another file by now."""
    for name, sha256 in shown.inputs.items():
        found = sha256_of(results / name)
        if found is None:
            yield f"{name}: missing; {shown.record} says that it was used"
        elif found != sha256:
            yield f"{name}: not the file that {shown.record} was made from (sha256 {found}, not {sha256})"


def runs_behind(results: Path, folders: Iterable[str]) -> list[str]:
    """These run folders and all that they came from, by their records: of an evaluation its training, and so on.

    A folder is named by its place in the results folder (`eval/<run>`, `base_model/<name>`). What lies elsewhere, such
    as demonstrations that were given, is not followed. Raises ValueError naming a record that is missing.
    """
    todo, found = sorted(set(folders)), set()
    while todo:
        folder = todo.pop()
        if folder in found:
            continue
        found.add(folder)
        inputs = read_json(results / folder / RECORD).get("inputs", {})
        todo += [run for entry in inputs.values() if (run := _run_of(results, entry["path"])) is not None]
    return sorted(found)


def _run_of(results: Path, path: str) -> str | None:
    """The run folder here that a recorded path, a checkpoint's or a run's own, ends in; None where there is none."""
    parts = PurePosixPath(path.removesuffix("/checkpoint")).parts
    place = "/".join(parts[-2:])
    return place if place and (results / place).is_dir() else None

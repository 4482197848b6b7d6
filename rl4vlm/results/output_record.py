"""Reads the records of tables, figures and the gallery: from which files each was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rl4vlm.core.files import read_json, sha256_of
from rl4vlm.results.lineage import place_of
from rl4vlm.results.provenance import METRICS, SUMMARY


@dataclass(frozen=True)
class OutputRecord:
    """The record of a figure, of the tables or of the gallery. All paths are relative to the results folder.

    Attributes:
        record: path of the record.
        settings: the settings that it was made with.
        packages: the versions of the packages that made it, by name.
        inputs: SHA-256 of each file that it was made from, by path, in the order of reading.
        base_perceptions: by task, the path of the `perception.json` of its base model.
        outputs: SHA-256 of each file that was made, by its name beside the record.
    """

    record: str
    settings: Mapping[str, Any]
    packages: Mapping[str, str]
    inputs: Mapping[str, str]
    base_perceptions: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def evaluations(self) -> list[str]:
        """The folders of its evaluations."""
        return [str(PurePosixPath(name).parent) for name in self.inputs if name.endswith(f"/{SUMMARY}")]

    @property
    def training_runs(self) -> list[str]:
        """The folders of its training runs."""
        return [str(PurePosixPath(name).parent) for name in self.inputs if name.endswith(f"/{METRICS}")]


def read_output_record(results: Path, record: str) -> OutputRecord:
    """Read the record of the tables, of a figure or of the gallery. Raises ValueError if it is not such a record."""
    found = read_json(results / record)
    try:
        settings, entries = dict(found["settings"]), dict(found["inputs"])
        return OutputRecord(
            record=record,
            settings=settings,
            packages=dict(found["packages"]),
            inputs={place_of(entry["path"]): str(entry["sha256"]) for entry in entries.values()},
            base_perceptions={
                task: place_of(entries[name]["path"]) for task, name in settings.get("base_perceptions", {}).items()
            },
            outputs=dict(found["outputs"]),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{results / record} is no record of a table or figure: {error!r}") from error


def differences(results: Path, output: OutputRecord) -> Iterator[str]:
    """A message for each input of an output that is missing, or has changed since the output was made."""
    for name, sha256 in output.inputs.items():
        found = sha256_of(results / name)
        if found is None:
            yield f"{name}: missing; {output.record} says that it was used"
        elif found != sha256:
            yield f"{name}: not the file that {output.record} was made from (sha256 {found}, not {sha256})"

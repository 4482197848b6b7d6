"""Packs results, their inputs and the code into one ZIP file, without weights.

The same results and code give the same bytes (with the same zlib), because entries are sorted and carry a fixed date.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yaml
from packaging.requirements import Requirement

from rl4vlm.archive.code import Snapshot, snapshot
from rl4vlm.archive.layout import (
    ABOUT,
    CODE,
    CONFIG,
    PATCH,
    README,
    REQUIREMENTS,
    RESULTS,
    RUN_FILES,
    SUMS,
    VERIFIES,
)
from rl4vlm.core.files import RECORD, atomic_file, read_json
from rl4vlm.results.lineage import runs_behind
from rl4vlm.results.names import TABLES, figure_files, figures_beside, table_files, tables_in
from rl4vlm.results.output_record import OutputRecord, differences, read_output_record
from rl4vlm.results.provenance import read_record

TABLES_RECORD = f"tables/{RECORD}"
GALLERY_RECORD = f"gallery/{RECORD}"
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The date of every entry: the earliest that ZIP allows."""


@dataclass(frozen=True)
class Packed:
    """What was packed: the number of files, the code's last commit, and whether there were uncommitted changes."""

    files: int
    revision: str
    changed: bool


def pack(*, results: Path, out: Path, code: Path, config: Mapping[str, Any]) -> Packed:
    """Write the archive of a results folder in one step.

    Args:
        results: folder of results with up-to-date tables and figures.
        out: ZIP file to write. If it lies inside `code`, it is not packed as code.
        code: a git checkout of this project.
        config: the resolved config of the results.

    Returns:
        What was packed.

    Raises:
        ValueError: the folder or files in it are missing, or inputs of a table or figure have changed since; the
            message names each. Or the config has another label than the tables, or `out` is a file that is no archive.
    """
    if out.exists() and not (zipfile.is_zipfile(out) and SUMS in zipfile.ZipFile(out).namelist()):
        raise ValueError(f"{out} exists and is not an archive of this command: name another file")
    chosen = results_files(results)
    _check_label(results / TABLES_RECORD, config)
    code_now = snapshot(code, ignore=out)
    texts = {
        ABOUT: json.dumps(_about(results, chosen, code_now), indent=2) + "\n",
        README: _readme(results, code_now),
        CONFIG: yaml.safe_dump(dict(config), sort_keys=False),
        REQUIREMENTS: "".join(f"{name}=={number}\n" for name, number in sorted(needed_packages(VERIFIES).items())),
    }
    sources: dict[str, bytes | Path] = {name: text.encode() for name, text in texts.items()}
    sources |= {f"{CODE}/{name}": content for name, content in code_now.files.items()}
    sources |= {f"{RESULTS}/{name}": results / name for name in chosen}
    if code_now.patch:
        sources[PATCH] = code_now.patch
    _write(out, sources, executable={f"{CODE}/{name}" for name in code_now.executable})
    return Packed(len(sources) + 1, code_now.revision, bool(code_now.patch))


def _check_label(record: Path, config: Mapping[str, Any]) -> None:
    """Raise ValueError if the tables have another label than the config: then another config made them."""
    made, named = read_record(record)["settings"].get("scale"), config.get("label") or config.get("scale")
    if made != named:
        raise ValueError(
            f"{record} is of scale {made!r}, the config of {named!r}: name the config that made the results"
        )


def results_files(results: Path) -> list[str]:
    """The files to pack, relative to the results folder: tables, figures, gallery, and the runs that they come from.

    Files that an earlier config left in the folder are not included. Raises ValueError as `pack` does.
    """
    if not results.is_dir():
        raise ValueError(f"no results at {results}: there is no such folder")
    record = results / TABLES_RECORD
    # If the record is missing, the error below names it, whichever tables are listed here.
    tables = tables_in(read_json(record)) if record.is_file() else list(TABLES)
    expected = [f"tables/{name}" for name in table_files(tables)]
    expected += [f"figures/{name}" for name in figure_files(tables)]
    expected += [TABLES_RECORD, *(f"figures/{name}.{RECORD}" for name in figures_beside(tables))]
    if (results / GALLERY_RECORD).is_file():
        expected += [GALLERY_RECORD, "gallery/index.html"]
    missing = [f"{results / name}: missing" for name in expected if not (results / name).is_file()]
    if missing:
        raise ValueError("\n".join(missing))
    records = [read_output_record(results, name) for name in expected if name.endswith(RECORD)]
    stale = [difference for item in records for difference in differences(results, item)]
    if stale:
        raise ValueError("\n".join([*dict.fromkeys(stale), "run snakemake, then pack again"]))
    folders = runs_behind(results, _run_folders(records))
    found = [f"{folder}/{name}" for folder in folders for name in RUN_FILES if (results / folder / name).is_file()]
    return sorted(expected + found)


def _run_folders(records: list[OutputRecord]) -> Iterator[str]:
    """The folders of the files that outputs were made from, relative to the results folder."""
    for item in records:
        yield from (name.rpartition("/")[0] for name in item.inputs)


def _about(results: Path, chosen: list[str], code_now: Snapshot) -> dict[str, Any]:
    """The content of `archive.json`: which code is packed, and which code made the results."""
    made_by: Counter[tuple[str | None, bool | None]] = Counter()
    for name in chosen:
        if name.endswith(RECORD):
            made = read_json(results / name).get("code", {})
            made_by[made.get("revision"), made.get("changed")] += 1
    return {
        "format": 1,
        "code": {
            "revision": code_now.revision,
            "changed": bool(code_now.patch),
            "left_out": dict(sorted(code_now.left_out.items())),
        },
        "results_made_by": [
            {"revision": revision, "changed": changed, "records": count}
            for (revision, changed), count in sorted(made_by.items(), key=lambda item: (-item[1], str(item[0])))
        ],
    }


def _readme(results: Path, code_now: Snapshot) -> str:
    template = Template(files("rl4vlm.archive").joinpath("readme.md").read_text(encoding="utf-8"))
    python = read_json(results / TABLES_RECORD).get("packages", {}).get("python", "3.11")
    changed = (
        f"with uncommitted changes: `{PATCH}` leads from that revision to `{CODE}/`"
        if code_now.patch
        else "without any uncommitted changes"
    )
    return template.substitute(revision=code_now.revision, changed=changed, python=".".join(python.split(".")[:2]))


def needed_packages(names: tuple[str, ...]) -> dict[str, str]:
    """The installed versions, by name, of these packages and of everything they require."""
    todo, found = list(names), dict[str, str]()
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # A requirement of another platform.
            continue
        todo += [Requirement(line).name for line in requires(name) or () if "extra ==" not in line]
    return found


def _write(out: Path, sources: Mapping[str, bytes | Path], executable: set[str]) -> None:
    sums: list[str] = []
    with atomic_file(out) as draft, zipfile.ZipFile(draft, "w") as archive:
        for name, source in sorted(sources.items()):
            content = source.read_bytes() if isinstance(source, Path) else source
            sums.append(f"{sha256(content).hexdigest()}  {name}\n")
            _add(archive, name, content, 0o755 if name in executable else 0o644)
        _add(archive, SUMS, "".join(sums).encode(), 0o644)


def _add(archive: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name, date_time=LONG_AGO)
    entry.create_system = 3  # Unix: otherwise unzip ignores the file mode.
    entry.external_attr = (0o100000 | mode) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content, compresslevel=9)

"""Packs results, what they were made of and the code into one file, without weights.

The same results and code give the same bytes (under the same zlib): entries are sorted and carry no dates.
"""

from __future__ import annotations

import json
import os
import tempfile
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
from rl4vlm.archive.records import Shown, differences, read_shown
from rl4vlm.core.files import RECORD, read_json
from rl4vlm.results.lineage import runs_behind
from rl4vlm.results.names import FIGURES, figure_files, table_files
from rl4vlm.results.provenance import requirement_name

TABLES_RECORD = f"tables/{RECORD}"
GALLERY_RECORD = f"gallery/{RECORD}"
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The date of every entry, the first that the format has."""


@dataclass(frozen=True)
class Packed:
    """What was packed: the number of files, and whether the code differs from its revision."""

    files: int
    revision: str
    changed: bool


def pack(*, results: Path, out: Path, code: Path, config: Mapping[str, Any]) -> Packed:
    """Write the archive of a results folder to `out`, which is at no time half-written.

    Args:
        results: folder of results, whose tables and figures are up to date.
        out: file to write, a ZIP archive; no part of the code, where it lies in its folder.
        code: the project's folder, a git checkout.
        config: the config that the results were made with, resolved.

    Raises ValueError that names what is missing, and what a table or figure was made from that is another file by now.
    """
    chosen = results_files(results)
    code_now = snapshot(code, but=out)
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


def results_files(results: Path) -> list[str]:
    """The files to pack, by their places in a results folder: what is shown, and the runs that it came from.

    What an earlier config left in the folder is not among them. Raises ValueError as `pack` does.
    """
    promised = [f"tables/{name}" for name in table_files()] + [f"figures/{name}" for name in figure_files()]
    promised += [TABLES_RECORD, *(f"figures/{name}.{RECORD}" for name in FIGURES)]
    if (results / GALLERY_RECORD).is_file():
        promised += [GALLERY_RECORD, "gallery/index.html"]
    missing = [f"{results / name}: missing" for name in promised if not (results / name).is_file()]
    if missing:
        raise ValueError("\n".join(missing))
    shown = [read_shown(results, name) for name in promised if name.endswith(RECORD)]
    stale = [difference for item in shown for difference in differences(results, item)]
    if stale:
        raise ValueError("\n".join([*dict.fromkeys(stale), "run snakemake first, and pack again then"]))
    folders = runs_behind(results, _run_folders(shown))
    found = [f"{folder}/{name}" for folder in folders for name in RUN_FILES if (results / folder / name).is_file()]
    return sorted(promised + found)


def _run_folders(shown: list[Shown]) -> Iterator[str]:
    for item in shown:
        yield from (name.rpartition("/")[0] for name in item.inputs)


def _about(results: Path, chosen: list[str], code_now: Snapshot) -> dict[str, Any]:
    """What `archive.json` says: the code that is packed, and which code made the results."""
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
    """The installed versions of these packages and of all that they require here, by name."""
    todo, found = list(names), dict[str, str]()
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
        todo += [requirement_name(line) for line in requires(name) or () if "extra ==" not in line]
    return found


def _write(out: Path, sources: Mapping[str, bytes | Path], executable: set[str]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    sums: list[str] = []
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        temporary = Path(folder, out.name)
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, source in sorted(sources.items()):
                content = source.read_bytes() if isinstance(source, Path) else source
                sums.append(f"{sha256(content).hexdigest()}  {name}\n")
                _add(archive, name, content, 0o755 if name in executable else 0o644)
            _add(archive, SUMS, "".join(sums).encode(), 0o644)
        os.replace(temporary, out)


def _add(archive: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name, date_time=LONG_AGO)
    entry.create_system = 3  # Unix, whatever this machine is: the mode is read then.
    entry.external_attr = (0o100000 | mode) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content, compresslevel=9)

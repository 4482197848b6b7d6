"""A stage's output folder: locked while the stage runs, written to a draft, and published whole.

The record of the folder (`run.json`, entry `outputs`) lists what the stage wrote, by name and SHA-256. Only files in
such a list are ever replaced, and readers compare files with their checksums in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path, PurePosixPath
from typing import Any

from rl4vlm.core.files import RECORD, files_below, flush, named, read_json, sha256_of
from rl4vlm.core.lock import locked

UNFINISHED = ".unfinished"
"""The draft in a folder with one record."""
WHOLE_FOLDER = (".",)
"""The `names` of a stage whose output is the folder itself: `out / "."` is `out`, with every file in it."""


@contextmanager
def stage_output(
    out: Path,
    stages: Collection[str],
    names: Collection[str] = WHOLE_FOLDER,
    *,
    record: str = RECORD,
    keep_draft: bool = False,
) -> Iterator[Path]:
    """Write the outputs of a stage, all together or not at all.

    After an error or a kill, `out` is as it was before. A kill leaves a hidden draft, which the next run removes.

    Args:
        out: the folder of the outputs; missing parent folders are created.
        stages: names of the stages whose earlier outputs may be replaced.
        names: files and folders that will be written; nothing else may be in a folder among them.
        record: name of the record, which must be written last and lists the outputs.
        keep_draft: keep what an error left in the draft, such as metrics, until the next run.

    Yields:
        An empty folder to write to. Its files move to `out` when the block ends, or by `publish`.

    Raises:
        ValueError: one of the names is taken by something that none of the stages wrote, `out` is part of another run's
            output, or another process is at work on `out`.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a new or empty folder")
    _check_own(out)
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    draft = out / f".{record.removesuffix(RECORD)}unfinished"
    try:
        with named(out), locked(out / f".{record.removesuffix(RECORD)}lock"):
            # Publish the draft of a run that was killed while it moved its files: it had finished its work.
            publish(draft, record)
            shutil.rmtree(draft, ignore_errors=True)
            _check_replaceable(out, stages, names, record)
            draft.mkdir()
            try:
                with _still_there(draft):
                    yield draft
            except BaseException:
                # With a record it would count as complete, and the next run would publish it.
                (draft / record).unlink(missing_ok=True)
                if not (keep_draft and draft.is_dir() and any(draft.iterdir())):
                    shutil.rmtree(draft, ignore_errors=True)
                raise
            # A draft that cannot be moved is complete: keep it.
            publish(draft, record)
            shutil.rmtree(draft, ignore_errors=True)
    finally:
        for folder in created:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def check_apart(source: str | Path, out: Path) -> None:
    """Raise ValueError if a folder that a stage starts from is in its output folder, or the other way round."""
    here, there = Path(source).resolve(), out.resolve()
    if here.exists() and (here.is_relative_to(there) or there.is_relative_to(here)):
        raise ValueError(f"{source} would be overwritten by what is made from it: name another folder than {out}")


def _check_own(out: Path) -> None:
    """Raise ValueError if a record in a folder above lists files of `out`, or of a folder that `out` is in."""
    here = out.resolve()
    for folder in here.parents:
        top = here.relative_to(folder).parts[:1]
        if any(PurePosixPath(name).parts[:1] == top for name in _owned(folder, None, RECORD)):
            raise ValueError(f"{out} is part of the output that {folder / RECORD} lists: name a folder outside of it")


@contextmanager
def _still_there(draft: Path) -> Iterator[None]:
    """Raise FileNotFoundError at the end of the block if the folder was removed or replaced.

    A file that is written late would make the folder again, without the earlier files.
    """
    made = os.open(draft, os.O_RDONLY)  # while it is open, no other folder gets its number
    try:
        yield
        if not draft.is_dir() or draft.stat().st_ino != os.fstat(made).st_ino:
            raise FileNotFoundError(ENOENT, "it was removed while the stage wrote to it", str(draft))
    finally:
        os.close(made)


def publish(draft: Path, record: str = RECORD) -> None:
    """Move a draft's files to their places, if its record says that it is complete. Calling it again does nothing."""
    if not (draft / record).is_file():
        return
    out, new = draft.parent, {*_outputs(read_json(draft / record)), record}
    for file in files_below(draft):
        flush(file)
    for name in _owned(out, None, record) - new:
        (out / name).unlink(missing_ok=True)
    # The record comes last. Until then the old one is in place, whose checksums reveal a mixture of old and new files.
    for name in sorted(new, key=lambda name: name == record):
        if (draft / name).exists():  # it has moved if the last run was killed here
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).replace(out / name)


def _check_replaceable(out: Path, stages: Collection[str], names: Collection[str], record: str) -> None:
    owned = _owned(out, stages, record)
    for name in (record, *names):
        for file in [out / name] if (out / name).is_file() else files_below(out / name):
            if file.relative_to(out).as_posix() not in owned:
                raise ValueError(
                    f"{file} would be replaced or mixed with new files, and no {record} in {out} says that stage "
                    f"{' or '.join(stages)} wrote it; name a new or empty folder, or remove it first"
                )


def _owned(out: Path, stages: Collection[str] | None, record: str) -> set[str]:
    """Names of a folder's record and of its files in it; empty without a record, or if another stage wrote it."""
    try:
        found = read_json(out / record)
    except (ValueError, OSError):
        return set()
    return {*_outputs(found), record} if stages is None or found.get("stage") in stages else set()


def _outputs(record: Mapping[str, Any]) -> dict[str, str]:
    """The outputs that a record lists, with their checksums. Paths that lead out of its folder are ignored."""
    found = record.get("outputs")
    if not isinstance(found, Mapping):
        return {}
    paths = {name: PurePosixPath(name) for name in found}
    return {name: found[name] for name, path in paths.items() if not path.is_absolute() and ".." not in path.parts}


def output_checksums(folder: Path, record: str) -> dict[str, str]:
    """SHA-256 of each file below a folder but its record, by name: the `outputs` of a record."""
    names = {file.relative_to(folder).as_posix(): file for file in sorted(files_below(folder))}
    return {name: sha256_of(file) or "" for name, file in names.items() if name != record}


def check_unchanged(path: Path) -> None:
    """Compare a file or folder with the records in it and in the two folders above, if one lists it.

    A kept policy is in `RUN/checkpoints/NAME`, and its record in `RUN`.

    Raises:
        ValueError: a file is missing, or is not the one that was written; the message names it.
    """
    for folder in (path, *path.parents[:2]):
        if not (folder / RECORD).is_file():
            continue
        try:
            record = read_json(folder / RECORD)
        except ValueError:
            if folder in (path, path.parent):
                raise
            continue  # so far above, it may be anybody's file
        listed = {folder / name: sha256 for name, sha256 in _outputs(record).items()}
        for file, sha256 in listed.items():
            if path not in (file, *file.parents):
                continue
            found = sha256_of(file)
            if found != sha256:
                raise ValueError(
                    f"{file} is {'missing' if found is None else 'damaged or was changed'}: {folder / RECORD} lists it "
                    f"with SHA-256 {sha256[:16]}..., not {str(found)[:16]}; make it again, or remove {RECORD} to use it"
                )

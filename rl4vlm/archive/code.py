"""Reads the current code of a git checkout, and how it differs from its last commit."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from rl4vlm.archive.layout import WEIGHTS
from rl4vlm.core.lock import scratch_folder


@dataclass(frozen=True)
class Snapshot:
    """All files of a checkout that git does not ignore, with uncommitted changes.

    Attributes:
        revision: the last commit.
        patch: the difference from `revision` to `files`; empty if there is none.
        files: content by path.
        executable: paths of executable files.
        left_out: SHA-256 by path of the weights, which are not in `files`.
    """

    revision: str
    patch: bytes
    files: Mapping[str, bytes]
    executable: frozenset[str]
    left_out: Mapping[str, str]


def revision_and_tree(root: Path, *, ignore: Path | None = None) -> tuple[str, str]:
    """The last commit of a checkout and the git tree hash of its current files. Together they determine `snapshot`.

    Args:
        root: top folder of a git checkout of this project.
        ignore: a file that is about to be written. It counts only as committed, because it is not code.

    Raises:
        ValueError: `root` is not a git checkout of this project.
    """
    if not (root / "rl4vlm" / "__init__.py").is_file():
        raise ValueError(f"{root.absolute()} is not the project's folder: rl4vlm/__init__.py is missing there")
    top = _git(root, "rev-parse", "--show-toplevel").decode().strip()
    if Path(top).resolve() != root.resolve():
        raise ValueError(f"{root.absolute()} is not the top folder of a git checkout, but lies in that of {top}")
    revision = _git(root, "rev-parse", "HEAD").decode().strip()
    with scratch_folder("rl4vlm-index-") as folder:
        # Use a separate index, so that the user's staged changes stay as they are.
        index = {"GIT_INDEX_FILE": str(folder / "index")}
        _git(root, "read-tree", "HEAD", **index)
        _git(root, "add", "--all", **index)
        if ignore is not None and (place := ignore.parent.resolve() / ignore.name).is_relative_to(root.resolve()):
            _git(root, "reset", "--quiet", "--", f":(top,literal){place.relative_to(root.resolve())}", **index)
        return revision, _git(root, "write-tree", **index).decode().strip()


def snapshot(root: Path, *, ignore: Path | None = None) -> Snapshot:
    """Read the code without changing the checkout. Arguments and errors are those of `revision_and_tree`."""
    revision, tree = revision_and_tree(root, ignore=ignore)
    patch = _git(root, "diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "HEAD", tree)
    files, executable = _unpacked(_git(root, "archive", "--format=tar", tree))
    weights = {name: content for name, content in files.items() if name.endswith(WEIGHTS)}
    return Snapshot(
        revision=revision,
        patch=patch,
        files={name: content for name, content in files.items() if name not in weights},
        executable=executable,
        left_out={name: sha256(content).hexdigest() for name, content in weights.items()},
    )


def _unpacked(tar: bytes) -> tuple[dict[str, bytes], frozenset[str]]:
    """The files of a tar archive, and the paths of the executable ones."""
    files: dict[str, bytes] = {}
    executable: set[str] = set()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            files[member.name] = content.read()
            if member.mode & 0o100:
                executable.add(member.name)
    return files, frozenset(executable)


def _git(root: Path, *arguments: str, **environment: str) -> bytes:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})
    except FileNotFoundError:
        raise ValueError("the code cannot be packed: git is not installed") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise ValueError(f"the code at {root.absolute()} cannot be packed: git {arguments[0]}: {said}")
    return done.stdout

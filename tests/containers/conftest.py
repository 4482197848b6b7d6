"""One image for all tests of this folder, and a clone of the project to work in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.buildah import IMAGE, ROOT, Buildah, CannotRun, check


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    try:
        check()
    except CannotRun as reason:
        pytest.skip(str(reason))
    store = tmp_path_factory.mktemp("images")
    buildah = Buildah(store)
    try:
        buildah.make_base()
        buildah.build()
        yield buildah
    finally:
        # pytest would keep these gigabytes for three runs.
        shutil.rmtree(store)


@pytest.fixture(scope="session")
def settings(image: Buildah) -> dict[str, object]:
    """The image's config: `User`, `Entrypoint`, `Cmd`, `WorkingDir`, `Env`."""
    config = json.loads(image("inspect", "--type=image", IMAGE))["OCIv1"]["config"]
    assert isinstance(config, dict)
    return config


@pytest.fixture
def clone(tmp_path: Path, settings: dict[str, object]) -> Path:
    """A clone of the repository, owned by the image's user."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    user = int(str(settings["User"]))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)
    return folder

"""The image built by buildah, without a daemon, on a bare Debian that stands in for the Dockerfile's CUDA base."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Its Python is 3.11.
RELEASE = "bookworm"
# A root file system of that release made earlier, which spares the minutes of making one.
MADE_EARLIER = "RL4VLM_BASE_TAR"
# How this machine's pip reaches its packages holds inside as well.
PIP_SETTINGS = ("PIP_CERT", "PIP_DEFAULT_TIMEOUT", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL")
BASE = "stand-in:latest"
IMAGE = "rl4vlm:test"


class CannotRun(Exception):
    """Why no image can be built on this machine."""


def check() -> None:
    """Raise CannotRun where the programs or the rights are missing."""
    missing = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
    if missing:
        raise CannotRun(f"{' and '.join(missing)} missing: apt-get install buildah mmdebstrap")
    if os.geteuid() != 0:
        raise CannotRun("building without a daemon on a base made here needs root")


def settings() -> dict[str, str]:
    return {name: os.environ[name] for name in PIP_SETTINGS if name in os.environ}


def local_packages() -> list[str]:
    """Folders of this machine that pip takes packages from, as volumes for buildah."""
    folders = [Path(word) for word in settings().get("PIP_FIND_LINKS", "").split()]
    return [f"--volume={folder}:{folder}:ro" for folder in folders if folder.is_dir()]


@dataclass(frozen=True)
class Buildah:
    """A store of images of its own, with one working container from the image.

    Attributes:
        store: folder of everything that buildah keeps; several GB.
    """

    store: Path

    def __call__(self, *arguments: str | Path) -> str:
        """Run a buildah command; return what it printed. Raises AssertionError with all its output where it fails."""
        place = ["--storage-driver=vfs", f"--root={self.store / 'root'}", f"--runroot={self.store / 'run'}"]
        done = subprocess.run(["buildah", *place, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def make_base(self) -> None:
        """Commit the stand-in, which takes packages from where this machine takes them."""
        tar = Path(os.environ.get(MADE_EARLIER, self.store / "base.tar"))
        if not tar.exists():
            packages = "--include=ca-certificates"
            subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", packages, RELEASE, tar], check=True)
        self("from", "--name=base", "scratch")
        self("add", "base", tar, "/")
        if "PIP_CERT" in os.environ:
            self("add", "base", os.environ["PIP_CERT"], os.environ["PIP_CERT"])
        self("config", *(f"--env={name}={value}" for name, value in settings().items()), "base")
        self("commit", "--rm", "base", BASE)

    def build(self) -> None:
        """Build the Dockerfile with the CPU's lock on the stand-in, and make the working container."""
        how = ["--isolation=chroot", "--network=host", "--pull-never", "--format=docker"]
        self("build", *how, *local_packages(), f"--from={BASE}", "--build-arg=LOCK=cpu", f"--tag={IMAGE}", ROOT)
        self("from", "--name=tried", "--pull-never", IMAGE)

    def run(self, *command: str, work: Path | None = None, options: Sequence[str] = ()) -> str:
        """Run a command in the working container, as the image's user, with a folder as its /work."""
        volume = [f"--volume={work}:/work"] if work else []
        how = ["--isolation=chroot", "--network=host", *volume, "--env=OMP_NUM_THREADS=1", *options]
        return self("run", *how, "tried", "--", *command)

"""Builds the image with buildah, which needs no daemon, on a plain Debian instead of the Dockerfile's CUDA base."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A Debian release with Python 3.11.
RELEASE = "bookworm"
# Environment variable: path of an existing root file system of that release, which saves minutes.
MADE_EARLIER = "RL4VLM_BASE_TAR"
# This machine's pip settings also apply inside the image.
PIP_SETTINGS = ("PIP_CERT", "PIP_DEFAULT_TIMEOUT", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL")
BASE = "substitute:latest"
IMAGE = "rl4vlm:test"


class CannotRun(Exception):
    """Images cannot be built on this machine; the message says why."""


def check() -> None:
    """Raise CannotRun if programs or rights are missing."""
    missing = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
    if missing:
        raise CannotRun(f"{' and '.join(missing)} missing: apt-get install buildah mmdebstrap")
    if os.geteuid() != 0:
        raise CannotRun("only root can build an image without a daemon")


def settings() -> dict[str, str]:
    return {name: os.environ[name] for name in PIP_SETTINGS if name in os.environ}


def local_packages() -> list[str]:
    """Options that mount the local package folders of pip."""
    folders = [Path(word) for word in settings().get("PIP_FIND_LINKS", "").split()]
    return [f"--volume={folder}:{folder}:ro" for folder in folders if folder.is_dir()]


@dataclass(frozen=True)
class Buildah:
    """A separate image store, with one container made from the image.

    Attributes:
        store: folder for everything that buildah stores; several GB.
    """

    store: Path

    def __call__(self, *arguments: str | Path) -> str:
        """Run a buildah command and return its output. Raises AssertionError with the output if it fails."""
        place = ["--storage-driver=vfs", f"--root={self.store / 'root'}", f"--runroot={self.store / 'run'}"]
        done = subprocess.run(["buildah", *place, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def make_base(self) -> None:
        """Create the substitute base, with this machine's pip settings."""
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
        """Build the Dockerfile with the CPU lock on the substitute base, and create the container."""
        how = ["--isolation=chroot", "--network=host", "--pull-never", "--format=docker"]
        self("build", *how, *local_packages(), f"--from={BASE}", "--build-arg=LOCK=cpu", f"--tag={IMAGE}", ROOT)
        self("from", "--name=tried", "--pull-never", IMAGE)

    def run(self, *command: str, work: Path | None = None, options: Sequence[str] = ()) -> str:
        """Run a command in the container as the image's user, with the folder `work` mounted as /work."""
        volume = [f"--volume={work}:/work"] if work else []
        how = ["--isolation=chroot", "--network=host", *volume, "--env=OMP_NUM_THREADS=1", *options]
        return self("run", *how, "tried", "--", *command)

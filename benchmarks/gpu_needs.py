"""The packages that `gpu_check.py` needs if the project is not installed. This module needs none of them itself."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NEEDS = {
    # The check was tried with these versions and with the pins of pyproject.toml.
    "torch": "2.11",
    "transformers": "5.17",
    "peft": "0.21",
    "accelerate": "1.15",
    "gymnasium": "1.4",
    "pydantic": "2.14",
    # Little of these packages is used, so any release from this version on should do.
    "jinja2": "3",
    "matplotlib": "3",
    "numpy": "2",
    "pandas": "2",
    "pillow": "10",
    "pyyaml": "6",
    "tqdm": "4",
}
"""The packages, and the oldest version of each that will do."""


def installed(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def complaints(find: Callable[[str], str | None] = installed) -> list[str]:
    """What is missing or too old, one sentence each."""
    found = {name: find(name) for name in NEEDS}
    return [
        f"{name} is missing" if there is None else f"{name} {there} is too old: {NEEDS[name]} is needed"
        for name, there in found.items()
        if there is None or _numbers(there) < _numbers(NEEDS[name])
    ]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)[:2]]


def install_wheels(wheels: Path) -> None:
    """Install a folder's wheels, if there are any, into a temporary folder that only this process imports from."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        return
    target = tempfile.mkdtemp(prefix="gpu-check-")
    options = ["--quiet", "--no-index", "--no-deps", "--target", target]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *files], check=True)
    # In front, so that a package of the folder is taken in place of an older one that is installed.
    sys.path.insert(0, target)

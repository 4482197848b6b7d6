"""The layout of an archive, and the files of a results folder that go into it."""

from __future__ import annotations

from rl4vlm.core.files import RECORD
from rl4vlm.results.provenance import EPISODES, MANIFEST, METRICS, PERCEPTION, SUMMARY, TIMING

SUMS = "SHA256SUMS"
"""The manifest of all other files, in the format of `sha256sum --check`."""
ABOUT = "archive.json"
README = "README.md"
CONFIG = "config.yaml"
REQUIREMENTS = "requirements.txt"
PATCH = "uncommitted.patch"
CODE = "code"
RESULTS = "results"

RUN_FILES = (RECORD, SUMMARY, EPISODES, METRICS, TIMING, PERCEPTION, MANIFEST)
"""The files of a run's folder to pack. Weights, images and demonstrations are left out; records hold their SHA-256."""

WEIGHTS = (".safetensors", ".bin", ".pt", ".ckpt")
"""Suffixes of weight files. The repository's weights are left out too; `archive.json` lists them with their SHA-256."""

DRAWS = ("jinja2", "matplotlib", "numpy", "pandas", "pillow", "scipy", "seaborn", "tabulate")
"""The packages whose versions determine the bytes of tables and figures."""
VERIFIES = (*DRAWS, "packaging", "pydantic", "pyyaml", "tqdm")
"""The packages that a verification imports."""

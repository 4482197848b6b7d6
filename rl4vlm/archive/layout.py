"""What lies where in an archive, and which files of a results folder go into it."""

from __future__ import annotations

SUMS = "SHA256SUMS"
"""The manifest, as `sha256sum --check` reads it: every file of the archive but itself."""
ABOUT = "archive.json"
README = "README.md"
CONFIG = "config.yaml"
REQUIREMENTS = "requirements.txt"
PATCH = "uncommitted.patch"
CODE = "code"
RESULTS = "results"

RUN_FILES = (
    "run.json",
    "summary.json",
    "episodes.jsonl",
    "metrics.jsonl",
    "timing.jsonl",
    "perception.json",
    "manifest.json",
)
"""What is packed of a run's folder: all but weights, pictures and demonstrations, whose checksums the records hold."""

WEIGHTS = (".safetensors", ".bin", ".pt", ".ckpt")
"""Suffixes of files of the repository that are left out, as weights; the archive names them with their checksums."""

DRAWS = ("jinja2", "matplotlib", "numpy", "pandas", "pillow", "scipy", "seaborn", "tabulate")
"""The packages whose versions decide the bytes of tables and figures."""
VERIFIES = (*DRAWS, "packaging", "pydantic", "pyyaml", "tqdm")
"""The packages that a verification imports."""

"""The folders that an environment reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

OPTIONS = ("data", "card_art")
"""The options of environments that name a folder: of games, and of card images."""


def env_folders(env: Mapping[str, Any]) -> dict[str, Path]:
    """The folders that an environment with these options reads, by their names among the inputs of a run."""
    return {f"{option} {env[option]}": Path(env[option]) for option in OPTIONS if env.get(option)}

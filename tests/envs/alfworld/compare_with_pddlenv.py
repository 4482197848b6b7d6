"""Compare the engine with the unchanged library on the same random walks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.envs.alfworld.engine import Engine
from rl4vlm.envs.alfworld.types import Situation

REFERENCE_ENV = Path(__file__).with_name("reference_env.py")
needs_working_library = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="the unchanged library writes to locals(), which fails from Python 3.13 on"
)


def assert_matches_pddlenv(files: Sequence[Path], steps: int) -> None:
    """Compare every command, sentence, fact and outcome of a random walk in each game with those of `PddlEnv`."""
    words = [sys.executable, str(REFERENCE_ENV), str(steps), *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    played = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(played) == len(files)
    for file, expected in zip(files, played, strict=True):
        engine = Engine()
        now = engine.start(file)
        for step in expected:
            now = engine.act(step["command"]) if step["command"] else now
            assert entry(step["command"], now) == step, file
        assert len(expected) == steps + 1 or now.won
        engine.close()


def entry(command: str, now: Situation) -> dict[str, Any]:
    return {
        "command": command,
        "feedback": now.feedback,
        "admissible": list(now.admissible),
        "facts": [list(fact) for fact in now.facts],
        "won": now.won,
    }

"""Streams that are named, the same everywhere, and never the same for two purposes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from rl4vlm.core.seeding import TRAINING_SEEDS_FROM, stream, training_env_seed


def test_names_of_any_shape_give_different_streams() -> None:
    """SeedSequence itself takes [1] and [1, 0] for the same."""
    names: list[tuple[int, tuple[str | int, ...]]] = [
        (1, ()),
        (1, (0,)),
        (1, (0, 0)),
        (10, ()),
        (-1, ()),
        (1, ("env",)),
        (1, ("env", 0)),
        (1, ("env", 1)),
        (1, ("env", 0, 1)),
        (1, ("env0",)),
        (2, ("env",)),
        (1, ("0",)),
        (1, ("sampling",)),
        (2**64 + 1, ()),
    ]
    drawn = [int(stream(seed, *purpose).integers(2**62)) for seed, purpose in names]
    assert len(set(drawn)) == len(names)


def test_numpy_integers_name_the_same_streams_as_pythons() -> None:
    same = stream(int(np.int64(3)), "env", 1), stream(np.int64(3), "env", np.int32(1))  # type: ignore[arg-type]
    assert same[0].integers(2**62) == same[1].integers(2**62)


def test_another_process_draws_the_same() -> None:
    code = "from rl4vlm.core.seeding import stream; print(stream(5, 'env', 2).integers(2**62))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(elsewhere) == stream(5, "env", 2).integers(2**62)


def test_training_never_uses_the_seeds_of_evaluation() -> None:
    seeds = {training_env_seed(seed) for seed in range(200)}
    assert len(seeds) == 200
    assert min(seeds) >= TRAINING_SEEDS_FROM

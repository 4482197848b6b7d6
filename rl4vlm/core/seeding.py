"""Random streams that never meet: each is named by a seed and what it is for."""

from __future__ import annotations

import hashlib

import numpy as np

TRAINING_SEEDS_FROM = 2**32
"""Environments of endless play are reset with seeds from here on; held-out evaluation uses smaller ones only."""


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """The random stream for a purpose, such as `stream(seed, "env", rank, index)`.

    Different seeds or purposes give independent streams; the same ones give the same stream in every process.
    """
    return np.random.default_rng(_sequence(seed, purpose))


def training_env_seed(seed: int, *purpose: str | int) -> int:
    """A seed for `env.reset` that held-out evaluation can never use."""
    return TRAINING_SEEDS_FROM + int(stream(seed, "env reset", *purpose).integers(2**62))


def _sequence(seed: int, purpose: tuple[str | int, ...]) -> np.random.SeedSequence:
    # Hashed, because SeedSequence takes no names and does not tell [1] from [1, 0].
    name = repr((int(seed), *(part if isinstance(part, str) else int(part) for part in purpose)))
    return np.random.SeedSequence(int.from_bytes(hashlib.sha256(name.encode()).digest()))

"""Independent random streams, each named by a seed and a purpose."""

from __future__ import annotations

import hashlib

import numpy as np

TRAINING_SEEDS_FROM = 2**32
"""First seed for resetting training environments. Validation and held-out evaluation use only smaller seeds."""
VALIDATION_SEEDS_FROM = 3_000_000_000
"""First seed of the validation episodes during a training. Held-out evaluation uses only smaller seeds."""


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """The random stream for one purpose, such as `stream(seed, "env", rank, index)`.

    The same seed and purpose give the same stream in every process. Any other seed or purpose gives an independent one.
    """
    return np.random.default_rng(_sequence(seed, purpose))


def training_env_seed(seed: int, *purpose: str | int) -> int:
    """A seed for `env.reset`, drawn from a range that held-out evaluation never uses."""
    return TRAINING_SEEDS_FROM + int(stream(seed, "env reset", *purpose).integers(2**62))


def validation_seeds(episodes: int) -> range:
    """The seeds of the validation episodes, which neither training nor held-out evaluation uses."""
    return range(VALIDATION_SEEDS_FROM, VALIDATION_SEEDS_FROM + episodes)


def _sequence(seed: int, purpose: tuple[str | int, ...]) -> np.random.SeedSequence:
    # Hash the name: SeedSequence accepts only integers, and treats [1] and [1, 0] as the same entropy.
    name = repr((int(seed), *(part if isinstance(part, str) else int(part) for part in purpose)))
    return np.random.SeedSequence(int.from_bytes(hashlib.sha256(name.encode()).digest()))

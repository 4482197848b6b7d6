"""Shared fixtures: a tiny vision-language model with random weights, saved and loaded like any checkpoint."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rl4vlm.models.actor_critic import ActorCritic

TEXTS = [
    'You see a number line. Answer in JSON: {"current number": 2, "thoughts": "2 is less than 4.", "action": "+"}',
    'Play Blackjack. Answer in JSON: {"thoughts": "The dealer shows 9. My cards are 10, K.", "action": "stand"}',
] * 20


# Folders whose files take longest. A whole file goes to one process; a long one that comes last would run alone.
LONGEST = ("tests/workflow/", "tests/torture/", "tests/ppo/", "tests/policies/api/", "tests/models/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny LLaVA with random weights."""
    from rl4vlm.base_model.tiny import build
    from rl4vlm.config.stages.pretrain import TinySizes

    folder = tmp_path_factory.mktemp("tiny")
    sizes = TinySizes(
        image_size=60, patch=15, width=32, vision_layers=1, language_layers=2, heads=2, mlp=64, vocabulary=400
    )
    build(TEXTS, sizes, seed=0).save(folder)
    return folder


@pytest.fixture
def actor_critic(tiny_checkpoint: Path) -> ActorCritic:
    """The tiny LLaVA with a random value head."""
    import torch

    from rl4vlm.models.actor_critic import ActorCritic

    torch.manual_seed(0)
    return ActorCritic.load(tiny_checkpoint, temperature=0.7, max_new_tokens=24, value_sizes=(16,))

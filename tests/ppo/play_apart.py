"""Plays environments with a model in float64, as one of the processes that `torchrun` launches; a script for tests.

Usage: torchrun --nproc_per_node N play_apart.py FOLDER. FOLDER holds `checkpoint/`; the texts of all replies, a list an
environment, are written there as `texts.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from rl4vlm.interaction.play import Slot, advance
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.loading import accelerator_on
from rl4vlm.models.processes import Processes, share
from rl4vlm.policies.vlm import VLMPolicy
from tests.fakes import climb_slot

ENVIRONMENTS, STEPS = 5, 3


def policy(checkpoint: Path) -> VLMPolicy:
    """One whose replies end after some tokens, by chance: float64, so that a batch's sums hardly round otherwise."""
    torch.manual_seed(0)
    model = ActorCritic.load(checkpoint, temperature=0.7, max_new_tokens=24, value_sizes=(16,)).double()
    head = model.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features, dtype=torch.float64))
    head.bias.data[model.encoder.eos_id] = 2.5
    return VLMPolicy(model)


def play(player: VLMPolicy, groups: Sequence[Sequence[Slot]]) -> list[list[str]]:
    """The texts of each environment's replies, the environments of a group asked in one batch."""
    rows = [[step for group in groups for step in advance(group, player)] for _ in range(STEPS)]
    return [[step.reply.text for step in column] for column in zip(*rows, strict=True)]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    accelerator = accelerator_on("cpu", 60.0)
    slots = [climb_slot(seed) for seed in share(ENVIRONMENTS, accelerator)]
    parts = Processes(accelerator, 60.0).gather(play(policy(folder / "checkpoint"), [slots]))
    if accelerator.is_main_process:
        (folder / "texts.json").write_text(json.dumps([len(parts), [texts for part in parts for texts in part]]))

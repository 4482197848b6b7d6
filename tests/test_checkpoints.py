"""A saved checkpoint is the model that was trained: loaded with transformers alone, it gives the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rl4vlm.cli import main
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.types import Style
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.encode import Encoder, collate
from rl4vlm.models.loading import Backbone
from rl4vlm.models.value_head import ValueHead
from rl4vlm.ppo.train import run as run_ppo
from rl4vlm.sft.data import run as make_data
from rl4vlm.sft.train import run as run_sft

PICTURE = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
PROMPT = "You see a number line. Answer in JSON."


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The objects whose `save` is called."""
    seen: list[Any] = []
    for kind in (ActorCritic, Backbone):

        def save(self: Any, folder: Path, write: Any = kind.save) -> None:
            seen.append(self)
            write(self, folder)

        monkeypatch.setattr(kind, "save", save)
    return seen


@torch.no_grad()
def last_hidden_and_logits(model: Any, processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    encoder = Encoder(processor)
    model.eval()
    batch = collate([encoder.prompt(PICTURE, PROMPT)], [encoder.reply('{"action": "+"}')], encoder.pad_id, model.device)
    out = model(**batch.inputs, output_hidden_states=True, use_cache=False)
    return out.hidden_states[-1], out.logits


def logits_apart(folder: Path, backbone: Backbone, init: Path) -> None:
    """The loaded model has the logits of the trained one, and not those of the one before training."""
    hidden, logits = last_hidden_and_logits(backbone.model, backbone.processor)
    loaded = last_hidden_and_logits(
        AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    )
    assert torch.equal(loaded[0], hidden)
    assert torch.equal(loaded[1], logits)
    before = last_hidden_and_logits(
        AutoModelForImageTextToText.from_pretrained(init), AutoProcessor.from_pretrained(init)
    )
    assert not torch.allclose(before[1], logits, atol=1e-4)


def test_of_sft(tiny_checkpoint: Path, tmp_path: Path, saved: list[Any]) -> None:
    data = tmp_path / "NumberLine-cot"
    make_data(task="NumberLine", style=Style.COT, out=data, settings=SFTDataSettings(samples=8))
    settings = SFTSettings(batch_size=4, micro_batch_size=4, learning_rate=1e-2, device="cpu", epochs=1)
    run_sft(data=data, init=tiny_checkpoint, out=tmp_path / "out", settings=settings)
    logits_apart(tmp_path / "out" / "checkpoint", saved[-1], tiny_checkpoint)


def test_of_ppo_with_its_value_head(tiny_checkpoint: Path, tmp_path: Path, saved: list[Any]) -> None:
    settings = PPOSettings(
        total_env_steps=8,
        num_envs=4,
        num_steps=8,
        ppo_epochs=1,
        minibatch_size=4,
        micro_batch_size=4,
        learning_rate=1e-3,
        temperature=1.0,
        max_new_tokens=8,
        value_sizes=(16, 8),
        device="cpu",
    )
    run_ppo(task="NumberLine", style=Style.ACTION_ONLY, init=tiny_checkpoint, out=tmp_path, seed=1, settings=settings)
    checkpoint = tmp_path / "checkpoint"
    # It is evaluated in the style that it was trained in, unless another one is asked for.
    for words, style in (([], "nocot"), (["--style", "cot"], "cot")):
        out = tmp_path / "evaluations" / style
        options = ["--set", "episodes=1", "num_envs=1", "device=cpu"]
        assert main(["evaluate", str(checkpoint), "NumberLine", "--out", str(out), *words, *options]) == 0
        assert json.loads((out / "summary.json").read_text())["style"] == style
    trained = next(item for item in saved if isinstance(item, ActorCritic))
    logits_apart(checkpoint, Backbone(trained.model, trained.encoder.processor), tiny_checkpoint)

    again = ActorCritic.load(checkpoint, temperature=1.0, max_new_tokens=8)
    prompts = [trained.encoder.prompt(PICTURE, PROMPT), trained.encoder.prompt(PICTURE, "Play.")]
    values = trained.values(prompts)
    assert np.array_equal(again.values(prompts), values)
    assert len(set(values)) == 2
    # The loaded value head, on the hidden states of transformers' own model.
    hidden, _ = last_hidden_and_logits(trained.model, trained.encoder.processor)
    head = ValueHead.load(checkpoint)
    assert torch.equal(head(hidden[:, 0]), trained.value_head(hidden[:, 0]))

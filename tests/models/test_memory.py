"""The estimated memory equals the memory that a model takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, DynamicCache

from rl4vlm.config.overrides import parse_settings
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.lora import trainable
from rl4vlm.models.memory import SHAPES, estimate, estimate_of, report, table
from rl4vlm.training.model_state import ModelState
from rl4vlm.training.state_file import write
from tests.models.families import FAMILIES


@pytest.fixture(scope="module", params=["LlavaNext", "Qwen3-VL", "Gemma3"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    FAMILIES[request.param].write(folder)
    return folder


@pytest.mark.parametrize("rank", [0, 4])
def test_weights_gradients_and_moments_are_exact(checkpoint: Path, rank: int, tmp_path: Path) -> None:
    settings = MemorySettings(dtype="bfloat16", lora_rank=rank, value_sizes=(16, 8))
    foreseen = estimate(checkpoint, settings)
    lora = LoraSettings(rank=rank, alpha=1) if rank else None
    model = ActorCritic.load(
        checkpoint, temperature=1.0, max_new_tokens=1, value_sizes=(16, 8), dtype="bfloat16", lora=lora
    )
    adapters = sum(p.numel() for name, p in model.model.named_parameters() if "lora_" in name)
    assert foreseen.parameters == sum(p.numel() for p in model.model.parameters()) - adapters
    trained = trainable(model)
    assert foreseen.trainable == sum(parameter.numel() for parameter in trained)
    assert foreseen.weights == _bytes(list(model.parameters()))
    optimizer = torch.optim.Adam(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert foreseen.gradients == _bytes([p.grad for p in trained if p.grad is not None])
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    assert foreseen.optimizer == _bytes(moments)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with (tmp_path / "model_state.pt").open("wb") as file:
        write(ModelState(model, optimizer, schedule).capture(), file)
    # The file also holds names, sizes and buffers.
    assert 0 < (tmp_path / "model_state.pt").stat().st_size - foreseen.state < 200_000


def test_the_cache_is_exact(checkpoint: Path) -> None:
    model = ActorCritic.load(checkpoint, temperature=1.0, max_new_tokens=1, dtype="bfloat16")
    # Fewer tokens than Gemma 3's window, so that no layer drops any.
    cache = DynamicCache(config=model.model.config)
    with torch.no_grad():
        model.model(input_ids=torch.full((3, 20), 40), past_key_values=cache)
    kept = _bytes([tensor for layer in cache.layers for tensor in (layer.keys, layer.values)])
    assert estimate(checkpoint, MemorySettings(tokens=20, num_envs=3)).cache == kept


def test_settings_move_what_they_should(checkpoint: Path) -> None:
    config = AutoConfig.from_pretrained(checkpoint)
    plain = estimate_of(config, MemorySettings())
    assert plain.training == plain.weights + plain.gradients + plain.optimizer + plain.activations
    assert estimate_of(config, MemorySettings(gradient_checkpointing=False)).activations > plain.activations
    assert estimate_of(config, MemorySettings(quantize="4bit")).weights < plain.weights
    only_play = estimate_of(config, MemorySettings(train=False))
    assert only_play.optimizer == only_play.gradients == only_play.trainable == 0
    assert only_play.playing == only_play.weights + plain.cache
    assert f"{plain.parameters:,}" in report(plain)


def test_what_makes_no_sense_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quantised weights cannot be trained"):
        MemorySettings(quantize="4bit", lora_rank=0)
    with pytest.raises(ValueError, match="float12"):
        parse_settings(MemorySettings, ["dtype=float12"])
    with pytest.raises(ValueError, match=tmp_path.name):
        estimate(tmp_path, MemorySettings())


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("llava-v1.6-mistral-7b", 7.57e9),
        ("Qwen2.5-VL-3B", 3.75e9),
        ("Qwen2.5-VL-7B", 8.29e9),
        ("Qwen3-VL-4B", 4.44e9),
        ("SmolVLM2-2.2B", 2.25e9),
        ("gemma-3-4b", 4.30e9),
    ],
)
def test_known_shapes_have_the_published_number_of_parameters(name: str, published: float) -> None:
    assert estimate(name, MemorySettings(train=False)).parameters == pytest.approx(published, rel=0.005)


def test_the_table_names_every_known_shape() -> None:
    rows = table(MemorySettings()).splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(SHAPES)


def test_the_states_of_the_papers_runs_are_as_documented() -> None:
    """docs/resume.md and config/paper.yaml name them."""
    sizes = {
        "SFT, all weights": MemorySettings(lora_rank=0, value_sizes=()),
        "SFT, all weights, `dtype: float32`": MemorySettings(lora_rank=0, dtype="float32", value_sizes=()),
        "PPO, LoRA of rank 128": MemorySettings(lora_rank=128),
    }
    text = (Path(__file__).parents[2] / "docs" / "resume.md").read_text()
    for run, settings in sizes.items():
        size = estimate("llava-v1.6-mistral-7b", settings).state / 1e9
        assert f"| {run} | {size:.1f} GB | {3 * size:.0f} GB |" in text

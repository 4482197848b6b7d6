"""FLOPs and bytes, compared with numbers worked out by hand and with torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaConfig

from benchmarks.backbones import build, config_of
from benchmarks.counting import Ceiling, Counted, Part, Work, causal, count, used_layers
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.encode import Encoded, collate
from rl4vlm.models.lora import trainable
from rl4vlm.models.reply_logits import reply_logits

# 2x2 patches of 14 pixels and the class token: 5 tokens. One of two vision layers is used: LLaVA uses the last but one.
# Patches 3 * 14 * 14 * 16 = 9,408; vision 4 * 16 * 16 + 2 * 16 * 32 = 2,048; projector 16 * 32 + 32 * 32 = 1,536;
# text 2 * (4 * 32 * 32 + 3 * 32 * 64) = 20,480; head 32 * 512 = 16,384; value 32 * 1024 + 1024 * 512 + 512 = 557,568.
IMAGE = 2 * 4 * 9_408 + 2 * 5 * 2_048 + 4 * 16 * 25 + 2 * 4 * 1_536
"""FLOPs of one image: 75,264 patches, 20,480 vision, 1,600 attention over 25 pairs, 12,288 projector."""
VALUE = 2 * 557_568


def build_model(rank: int = 0) -> ActorCritic:
    lora = LoraSettings(rank=rank, alpha=2.0 * rank) if rank else None
    return build("llava-test", dtype=torch.float32, device=torch.device("cpu"), lora=lora, max_new_tokens=4)


@pytest.fixture(scope="module")
def model() -> ActorCritic:
    return build_model()


@pytest.fixture
def counted(model: ActorCritic) -> Counted:
    return count(config_of(model), width=4)


def test_a_score_by_hand(counted: Counted) -> None:
    assert IMAGE == 109_632
    # 10 prompt and 3 reply tokens: 13, with 91 causal pairs; attention 4 * (2 layers * 32) = 256 per pair.
    text = 2 * 13 * 20_480 + 256 * 91
    assert counted.score(10, 3, 1).flops == IMAGE + text + 2 * 3 * 16_384 + VALUE
    assert counted.score(10, 3, 8).flops == 8 * counted.score(10, 3, 1).flops


def test_prefill_and_decoding_by_hand(counted: Counted) -> None:
    assert counted.prefill(10, 1).flops == IMAGE + 2 * 10 * 20_480 + 256 * 55 + 2 * 16_384 + VALUE
    # The second and third reply token attend to 11 and 12 tokens, including themselves.
    work = counted.decode(10, 3, 4)
    assert work.flops == 4 * (2 * 2 * (20_480 + 16_384) + 256 * 23)
    # Two passes over the float32 weights; for each row, keys and values (2 * 2 layers * 32 numbers) of 23 tokens.
    assert work.bytes == 2 * 4 * (20_480 + 16_384) + 4 * 23 * (2 * 2 * 32 * 4)


def test_training_all_weights_costs_three_forward_passes(counted: Counted) -> None:
    assert counted.update(10, 3, 2).flops == 3 * counted.score(10, 3, 2).flops


def test_adapters_by_hand() -> None:
    part = Part(weights=1000, adapters=60, trained=False, attention=10)
    assert part.forward(5, 7) == 2 * 5 * 1060 + 4 * 10 * 7
    # Frozen weights only need the gradient of their input. Adapters also need their own.
    assert part.backward(5, 7) == 2 * 5 * (1000 + 2 * 60) + 2 * 4 * 10 * 7


@pytest.mark.parametrize("rank", [0, 4])
def test_an_optimizer_step_counts_the_weights_that_are_trained(rank: int) -> None:
    model = build_model(rank)
    counted = count(config_of(model), width=4, rank=rank)
    linear = sum(weight.numel() for weight in trainable(model) if weight.ndim == 2)
    # These weights are in the model but not in a linear layer that is used: embeddings, and the last vision layer.
    last = 2_048 if not rank else rank * (4 * 32 + 2 * 48)
    others = 5 * 16 if not rank else 0
    assert counted.trained == linear - last - others + (9_408 if not rank else 0)
    assert counted.optimizer_step() == Work(0.0, 7 * 4 * counted.trained)


def test_the_count_agrees_with_torchs_own(model: ActorCritic, counted: Counted) -> None:
    """Torch counts everything that is computed, including masked pairs and the unused last vision layer."""
    model.model.set_attn_implementation("eager")
    prompt, reply = torch.full((10,), 7), torch.tensor([5, 6, 8])
    prompt[1:5] = config_of(model).image_token_id
    encoded = Encoded(prompt, {"pixel_values": torch.zeros(1, 3, 28, 28)})
    batch = collate([encoded], [reply], 0, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _, last = reply_logits(model.model, batch)
        model.value_head(last)
    unused_layer = 2 * 5 * 2_048 + 4 * 16 * 25
    masked_pairs = 256 * (13 * 13 - causal(13))
    assert counter.get_total_flops() == counted.score(10, 3, 1).flops + unused_layer + masked_pairs


def test_the_large_models_weights() -> None:
    """LLaVA-1.6-mistral-7b: 32 layers of 218,103,808 weights (4096 by 4096 twice, by 1024 twice, by 14336 thrice)."""
    from benchmarks.backbones import SHAPES
    from rl4vlm.models.memory import shape_of

    counted = count(shape_of("llava-v1.6-mistral-7b"), width=2, rank=128)
    assert SHAPES["llava-mistral-7b"]["text_config"]["hidden_size"] == 4096
    assert counted.text.weights == 32 * 218_103_808
    assert counted.text.adapters == 32 * 128 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert counted.head.weights == 4096 * 32064
    assert (counted.places, counted.patches) == (576, 577)
    assert counted.kv == 2 * 32 * 8 * 128 * 2
    # 2 FLOPs per weight and token: about 14 GFLOPs per token.
    assert counted.text.forward(1) == pytest.approx(14.6e9, rel=0.05)


def test_which_vision_layers_are_used() -> None:
    config = LlavaConfig()
    there = config.vision_config.num_hidden_layers
    for layer, used in ((-1, there), (-2, there - 1), (3, 3)):
        config.vision_feature_layer = layer
        assert used_layers(config) == used


def test_the_slower_of_arithmetic_and_traffic_decides() -> None:
    ceiling = Ceiling(flops=100.0, bytes=10.0)
    assert Work(200.0, 5.0).seconds(ceiling) == 2.0
    assert Work(200.0, 50.0).seconds(ceiling) == 5.0

"""vLLM itself must sample from the trained model's policy. `make test-vllm` runs this in a separate environment."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.core.types import Style
from rl4vlm.export.run import run as export
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.vllm_engine import VLLMEngine
from rl4vlm.ppo.initial import make_slots
from tests.export.test_run import RECORD
from tests.models.families import write_llava_next

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's libraries warn
]

BASE = Path(__file__).parents[2] / "workflow" / "resources" / "base_model" / "cards"
CLOSE = 2e-4
"""Largest allowed difference of a token's log-probability, in nats, at temperature 0.7 in float32."""
STEPS = 64


class Played:
    """A model with trained adapters, and the engine that samples for it."""

    def __init__(self, model: ActorCritic) -> None:
        self.model = model
        self.engine = VLLMEngine(
            model.model, model.encoder, model.suppressed, temperature=0.7, max_new_tokens=24, cache_gb=0.1
        )
        self.engine.update(model.model)
        slots = make_slots("EZPoints", Style.COT, 1, PPOSettings(num_envs=STEPS, num_steps=STEPS))
        self.requests = [slot.request for slot in slots]
        self.prompts = [model.encoder.prompt(request.image, request.prompt) for request in self.requests]

    def replies(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """It raises if a prompt is not the same tokens for both."""
        images, texts = zip(*((request.image, request.prompt) for request in self.requests), strict=True)
        return self.engine.generate(images, texts, self.prompts, [np.random.default_rng(i) for i in range(STEPS)])

    def error(self, model: ActorCritic | None = None) -> float:
        """The largest difference between a token's log-probability as vLLM sampled it and as it is scored."""
        replies = self.replies()
        with torch.no_grad():
            scores = (model or self.model).score(self.prompts, [ids for ids, _ in replies])
        rows = zip(scores.logprobs, replies, strict=True)
        return max(float((scored[: len(ids)] - sampled).abs().max()) for scored, (ids, sampled) in rows)


def change(model: ActorCritic, by: float) -> None:
    """Change the adapters; the same number with the other sign restores them."""
    with torch.no_grad():
        for name, weight in model.model.named_parameters():
            if "lora_B" in name:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)), alpha=by)


@pytest.fixture(scope="module", params=["cards", "LlavaNext in one view"])
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    source, one_view = BASE, request.param != "cards"
    if one_view:
        source = tmp_path_factory.mktemp("llava-next")
        write_llava_next(source, head_dim=32)  # vLLM has no smaller heads on a CPU
    lora = LoraSettings(rank=2, alpha=2)
    model = ActorCritic.load(source, temperature=0.7, max_new_tokens=24, lora=lora, one_view=one_view)
    change(model, 0.02)
    return Played(model)


def test_log_probabilities_are_those_of_scoring_and_follow_the_weights(played: Played) -> None:
    assert played.error() < CLOSE
    before = played.replies()
    change(played.model, 0.1)
    assert played.error() > 0.01
    played.engine.update(played.model.model)
    assert played.error() < CLOSE
    change(played.model, -0.1)
    played.engine.update(played.model.model)
    assert played.error() < CLOSE
    for (ids, sampled), (ids_before, sampled_before) in zip(played.replies(), before, strict=True):
        assert torch.equal(ids, ids_before)
        torch.testing.assert_close(sampled, sampled_before, atol=CLOSE, rtol=0)


def test_suppressed_tokens_are_never_sampled_and_a_reply_ends_at_its_end_token(played: Played) -> None:
    ends = played.model.encoder.eos_id
    for ids, _ in played.replies():
        assert not torch.isin(ids, played.model.suppressed).any()
        assert ends not in ids[:-1]
        assert len(ids) == 24 or ids[-1] == ends


def test_an_exported_checkpoint_loads(played: Played, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    played.model.save(run / "checkpoint")
    (run / "run.json").write_text(json.dumps(RECORD))
    export(checkpoint=run / "checkpoint", out=tmp_path / "out", dtype="float32")
    # The engine starts from other weights, so a weight that was not replaced would show.
    change(played.model, 0.1)
    played.engine.update(played.model.model)
    change(played.model, -0.1)
    played.engine.reload(load_file(tmp_path / "out" / "model.safetensors"))
    assert played.error() < CLOSE


def test_an_evaluation_plays_with_it(tmp_path: Path) -> None:
    # Greedy, so that random numbers make no difference.
    settings = "episodes=8 num_envs=4 max_new_tokens=24 temperature=0 device=cpu engine_cache_gb=0.1"
    for engine in ("transformers", "vllm"):
        words = f"evaluate {BASE} EZPoints --out {tmp_path}/{engine} --set {settings} engine={engine}"
        subprocess.run([Path(sys.executable).with_name("rl4vlm"), *words.split()], check=True)
    plain, sampled = (
        [json.loads(line) for line in (tmp_path / engine / "episodes.jsonl").read_text().splitlines()]
        for engine in ("transformers", "vllm")
    )
    assert [[step["reply"] for step in episode["steps"]] for episode in plain] == [
        [step["reply"] for step in episode["steps"]] for episode in sampled
    ]


def test_ppo_trains_with_it(tmp_path: Path) -> None:
    settings = (
        "engine=vllm engine_cache_gb=0.1 importance_cap=2 total_env_steps=32 num_envs=4 num_steps=16 ppo_epochs=1 "
        "minibatch_size=8 micro_batch_size=8 max_new_tokens=16 learning_rate=1e-4 device=cpu lora.rank=2"
    )
    words = f"ppo --task NumberLine --init {BASE} --seed 1 --out {tmp_path}/out --set {settings}"
    subprocess.run([Path(sys.executable).with_name("rl4vlm"), *words.split()], check=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [1, 2]
    for line in lines:
        assert line["token_mult_prob_error"] == pytest.approx(1, abs=1e-4)
        assert line["effective_sample_size"] == pytest.approx(1, abs=1e-4)
        assert line["rescored_gap"] < 1e-3

"""PPO and evaluation with an engine in place of the model: here a stand-in for vLLM, which `make test-vllm` tests."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.types import Style
from rl4vlm.evaluation import run as evaluation
from rl4vlm.models import vllm_engine
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.hub_names import hub_weights
from rl4vlm.models.vllm_engine import VLLMEngine
from rl4vlm.policies import vlm
from rl4vlm.ppo.train import check_engine, run
from tests.ppo.test_train import SETTINGS

ENGINE = replace(SETTINGS, engine="vllm", importance_cap=2.0, validation_every=1, validation_episodes=2)


class StandIn:
    """Records what it is given, and samples from the trained model itself."""

    made: StandIn
    learner: ActorCritic

    def __init__(self, model: Any, encoder: Any, suppressed: torch.Tensor, **options: Any) -> None:
        self.options = options
        self.heads: list[torch.Tensor] = []
        StandIn.made = self

    def update(self, model: Any) -> None:
        self.heads.append(hub_weights(model)["lm_head.weight"].clone())

    def generate(self, images: Any, texts: Any, prompts: Any, rngs: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        # Report twice the probability for the first token of every reply.
        replies = self.learner.generate(prompts, rngs)
        return [(reply.ids, reply.logprobs + math.log(2) * torch.eye(len(reply.ids))[0]) for reply in replies]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(vlm, "VLLMEngine", StandIn)
    monkeypatch.setattr(vllm_engine, "check_vllm", lambda: None)
    load = ActorCritic.load

    def keep(*args: Any, **options: Any) -> ActorCritic:
        StandIn.learner = load(*args, **options)
        return StandIn.learner

    monkeypatch.setattr(ActorCritic, "load", keep)
    return StandIn


def test_the_engine_plays_with_the_current_weights_and_its_mismatch_is_measured(
    engine: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run(task="NumberLine", style=Style.COT, init=tiny_checkpoint, out=tmp_path, seed=1, settings=ENGINE)
    assert engine.made.options == {"temperature": 1.0, "max_new_tokens": 12, "cache_gb": 8.0}
    # Before each of two rollouts, and before the validation after each.
    first, validated, second, last = engine.made.heads
    assert not torch.equal(first, validated)
    assert torch.equal(validated, second)
    assert torch.equal(last, engine.learner.model.get_output_embeddings().weight)
    for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()):
        assert line["effective_sample_size"] == pytest.approx(1, abs=1e-4)
        # The error is 2 for one of a reply's tokens, and 1 for the others.
        assert line["token_mult_prob_error"] == pytest.approx(1 + 1 / line["reply_tokens"], rel=1e-3)


EVALUATION = EvaluationSettings(episodes=3, num_envs=2, max_new_tokens=8, engine="vllm", engine_cache_gb=0.5)


def evaluate(checkpoint: Path, out: Path, settings: EvaluationSettings = EVALUATION) -> list[dict[str, Any]]:
    evaluation.run(policy=str(checkpoint), task="NumberLine", style=Style.COT, out=out, settings=settings)
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


def test_an_evaluation_plays_with_the_engine_and_the_weights_of_the_checkpoint(
    engine: Any, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = evaluate(tiny_checkpoint, tmp_path / "plain", replace(EVALUATION, engine="transformers"))
    # The checkpoint has no critic, so the model itself has nothing to do.
    monkeypatch.setattr(ActorCritic, "values", lambda *_: pytest.fail("the prompts were read for their values"))
    played = evaluate(tiny_checkpoint, tmp_path / "engine")
    assert engine.made.options == {"temperature": 0.2, "max_new_tokens": 8, "cache_gb": 0.5}
    (head,) = engine.made.heads
    assert torch.equal(head, engine.learner.model.get_output_embeddings().weight)
    for ours, its in zip(plain, played, strict=True):
        assert (ours["seed"], ours["length"], ours["success"]) == (its["seed"], its["length"], its["success"])
        # The stand-in reports a first token that is twice as probable.
        for own, other in zip(ours["steps"], its["steps"], strict=True):
            assert own["reply"] == other["reply"]
            before, after = (step["logprob_thoughts"] + step["logprob_action"] for step in (own, other))
            assert after - before == pytest.approx(math.log(2), abs=1e-5)


def test_an_evaluation_with_vllm_refuses_quantised_weights_and_another_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="engine vllm does not work with quantize"):
        replace(EVALUATION, quantize="4bit")
    monkeypatch.setattr(vllm_engine, "check_vllm", lambda: None)
    monkeypatch.setattr(vlm, "choose_device", lambda name: torch.device(name))
    with pytest.raises(ValueError, match="takes the first GPU, not cuda:1"):
        evaluate(tmp_path, tmp_path / "out", replace(EVALUATION, device="cuda:1"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"importance_cap": None}, "needs importance_cap"),
        ({"defects": {"dropout": 0.1}}, r"neither with quantize nor with defects\.dropout"),
    ],
)
def test_settings_that_vllm_does_not_support_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(ENGINE, **changes)


def accelerator(processes: int = 1, device: str = "cpu") -> Any:
    return SimpleNamespace(num_processes=processes, device=torch.device(device))


@pytest.mark.parametrize(
    ("on", "said"),
    [(accelerator(2), "in one process"), (accelerator(device="cuda:1"), "takes the first GPU, not cuda:1")],
)
def test_several_processes_and_other_gpus_than_the_first_are_refused(
    on: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda package: object())
    with pytest.raises(ValueError, match=said):
        check_engine(on)
    check_engine(accelerator(device="cuda:0"))


def test_a_missing_vllm_is_reported_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"needs vllm, which is not installed: docs/install\.md"):
        run(task="NumberLine", style=Style.COT, init=tmp_path / "none", out=tmp_path / "out", seed=1, settings=ENGINE)


def test_vllm_starts_beside_a_model_that_fills_the_gpu(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM refuses to start if less than this share of the GPU is free, although the size of its cache is given."""
    asked: dict[str, Any] = {}
    library = ModuleType("vllm")
    library.LLM = lambda _folder, **options: asked.update(options)  # type: ignore[attr-defined]
    library.SamplingParams = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", library)
    monkeypatch.setattr(vllm_engine, "check_vllm", lambda: None)
    model = ActorCritic.load(tiny_checkpoint, temperature=1.0, max_new_tokens=4, value_sizes=(1,))
    VLLMEngine(model.model, model.encoder, model.suppressed, temperature=1.0, max_new_tokens=4, cache_gb=0.5)
    assert asked["kv_cache_memory_bytes"] == 500_000_000
    assert asked["gpu_memory_utilization"] <= 0.01

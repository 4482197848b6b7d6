"""gpu-check with tiny shapes on a CPU: it passes here, it reports what is wrong, and its page is complete."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check, gpu_correct, gpu_needs, gpu_page, gpu_speed
from benchmarks.backbones import build
from benchmarks.gpu_correct import correctness
from benchmarks.modes import Mode
from rl4vlm.models.shared_prompts import shared_rows

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_correct_here(dtype: str) -> None:
    found = list(correctness("llava-test", dtype, CPU))
    assert len(found) == 8
    assert [one for one in found if not one["passed"]] == []


def test_a_wrong_score_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gpu_correct, "_scored", lambda model, prompts, replies: [one.logprobs + 0.01 for one in replies]
    )
    first = next(correctness("llava-test", "float32", CPU))
    assert (first["passed"], first["found"]) == (False, pytest.approx(0.01, rel=1e-3))


def test_a_run_leaves_a_page_that_names_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no kernel for it")

    monkeypatch.setattr(gpu_correct, "correctness", broken)
    # A failure is reported, and the later measurements are made.
    assert gpu_check.main(["--correctness", "--memory", "--tokens", "3", "--out", str(tmp_path)]) == 1
    about, *failed, play, learn = map(json.loads, (tmp_path / gpu_check.LINES).read_text().splitlines())
    assert about["packages"]["torch"] == torch.__version__
    assert [line["error"] for line in failed] == ["RuntimeError: no kernel for it"] * 2
    assert play["played_per_s"] > 0
    assert learn["trained_per_s"] > 0
    # On a CPU there is only the memory of the whole process, which says nothing of the model's.
    assert learn["peak_memory"] is None
    shown = (tmp_path / gpu_check.PAGE).read_text()
    if not torch.cuda.is_available():
        assert "**This is a CPU. Nothing here was measured on a GPU" in shown
    assert "- correctness: RuntimeError: no kernel for it" in shown


def test_hours_and_memory_on_the_page() -> None:
    choice = vars(gpu_speed.Choice())
    about = {
        "part": "about", "device": "cuda", "model": "m", "tokens": 128, "seconds": 1.0, "date": "2026-01-01",
        "hardware": {"gpus": ["A GPU"]}, "packages": {"torch": "2.11.0"}, "code": {"revision": "abc", "changed": True},
    }  # fmt: skip
    same = {"part": "throughput", "choice": choice, "estimated_memory": 30e9}
    lines = [
        about,
        same | {"measured": "play", "played_per_s": 4.0, "tokens_per_s": 500.0, "peak_memory": 20e9},
        same | {"measured": "learn", "scored_per_s": 10.0, "trained_per_s": 5.0, "peak_memory": 31.26e9},
        same | {"measured": "learn", "out_of_memory": True},
        same
        | {
            "choice": {**choice, "task": "NumberLine", "share_prompts": False},
            "measured": "learn",
            "scored_per_s": 10.0,
            "trained_per_s": 5.0,
            "samples": 32,
            "distinct_prompts": 4,
        },
    ]
    shown = gpu_page.page(lines)
    assert "# gpu-check on A GPU" in shown
    assert "This is a CPU" not in shown
    # 30,000 steps: 1/4 s to play, 1/10 s to score again, 4 epochs of 1/5 s.
    assert "| bfloat16 | 128 | sdpa | EZPoints |  | 4 | no | 10 | 5 | 9.58 |" in shown
    assert "| bfloat16 | 128 | sdpa | EZPoints | learn | micro-batch 4, checkpointing no | 31.3 | 30.0 |" in shown
    # No hours: nothing was played in this game.
    assert "| bfloat16 | 128 | sdpa | NumberLine, prompts not shared | 4 of 32 | 4 | no | 10 | 5 |  |" in shown
    assert "- out of memory: {'dtype': 'bfloat16'" in shown
    assert not gpu_page.failed(lines)


def test_shared_prompts_are_turned_off_on_a_game_whose_prompts_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, alone = (choice for choice in gpu_speed.choices(4, 8) if choice.task == "NumberLine")
    assert (shared.share_prompts, alone) == (True, replace(shared, share_prompts=False))
    scored: list[int] = []

    def rows(*arguments: Any) -> list[list[int]]:
        found = shared_rows(*arguments)
        scored.append(len(found))
        return found

    monkeypatch.setattr("rl4vlm.models.actor_critic.shared_rows", rows)
    found: list[dict[str, Any]] = []
    for choice in (shared, alone):
        scored.clear()
        found += gpu_speed.measure("llava-test", CPU, [choice], 3, lambda: False)
        assert bool(scored) == choice.share_prompts
        # Some of the micro-batches, of four samples each, have a single prompt.
        assert min(scored, default=1) == 1
    assert [line["measured"] for line in found] == ["play", "learn"] * 2
    assert [line for line in found if "error" in line] == []
    # Nine replies to a prompt, as in a mini-batch.
    assert {(line["samples"], line["distinct_prompts"]) for line in found[1::2]} == {(32, 4)}


def test_choices_that_come_too_late_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = gpu_speed.choices(0, 2)[:4]
    monkeypatch.setattr(gpu_speed, "play", lambda *_: ([], {"measured": "play"}))
    answers = iter([False, False])  # only the model is built, and the first choice played
    lines = list(gpu_speed.measure("llava-test", CPU, asked, 3, lambda: next(answers, True)))
    assert [(line["not_measured"], line["why"]) for line in lines[1:]] == [
        ("learn with the first settings", "out of time"),
        ("play with kv_cache static", "out of time"),
        ("learn with micro_batch_size 1, gradient_checkpointing True", "out of time"),
    ]


@pytest.mark.parametrize("there", [False, True])
def test_the_page_says_that_vllm_was_not_measured(
    there: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rl4vlm.models.vllm_engine.find_spec", lambda name: there or None)
    monkeypatch.setattr(gpu_speed, "measure", lambda *_: iter(()))
    assert gpu_check.main(["--throughput", "--out", str(tmp_path)]) == 0
    why = "this check does not start it" if there else "engine 'vllm' needs vllm, which is not installed"
    assert f"- engine: vllm: not measured, {why}" in capsys.readouterr().out


def test_learning_is_measured_without_the_cache_of_play() -> None:
    choice = gpu_speed.Choice(lora_rank=0, num_envs=2, kv_cache="static")
    model = build("llava-test", dtype=torch.bfloat16, device=CPU, lora=None, max_new_tokens=3)
    mode = Mode("ours", model, gpu_speed.settings_of("llava-test", CPU, choice, 3))
    samples, line = gpu_speed.play(mode, choice, 3, [])
    assert (len(samples), "error" in line) == (2, False)
    assert model.reused_cache.rows(1) == 1


def test_packages_that_are_too_old_or_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    there = {"torch": "2.9.1+cu130", "transformers": "5.17.0", "peft": "1.0"}
    found = gpu_needs.complaints(lambda name: None if name == "gymnasium" else there.get(name, "99.0"))
    assert found == ["torch 2.9.1+cu130 is too old: 2.11 is needed", "gymnasium is missing"]
    monkeypatch.setattr(gpu_check, "complaints", lambda: found)
    assert gpu_check.main(["--wheels", str(tmp_path)]) == 2
    assert "gpu-check cannot run here: torch 2.9.1+cu130 is too old" in capsys.readouterr().err


def test_here_nothing_is_missing() -> None:
    assert gpu_needs.complaints() == []


def test_the_first_choices_are_those_of_the_papers_configs() -> None:
    base, paper, *_ = gpu_speed.choices(128, 64)
    assert (base.dtype, base.lora_rank, base.micro_batch_size, base.gradient_checkpointing) == (
        "bfloat16",
        128,
        4,
        False,
    )
    assert (base.num_envs, paper.num_envs) == (64, 2)

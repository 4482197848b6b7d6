"""Adapters: which layers get them, and a policy that is trained with them from demonstrations to evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from rl4vlm.cli import main
from rl4vlm.config.overrides import parse_settings
from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.loading import load_backbone
from rl4vlm.models.lora import ensure_adapter, target_layers, trainable

LORA: dict[str, Any] = {"rank": 4, "alpha": 8}


def test_all_linear_is_every_linear_layer_but_the_head(tiny_checkpoint: Path) -> None:
    model = load_backbone(tiny_checkpoint).model
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear - set(target_layers(model, "all-linear")) == {"lm_head"}


def test_a_regular_expression_chooses_whole_names(tiny_checkpoint: Path) -> None:
    model = load_backbone(tiny_checkpoint, lora=LoraSettings(rank=2, targets=r".*language_model.*\.(q|v)_proj")).model
    adapted = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert len(adapted) == 4
    assert all("language_model" in name and name.endswith(("q_proj", "v_proj")) for name in adapted)


def test_targets_that_match_nothing_are_named_with_what_there_is(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"targets 'query' matches no linear layer; there are .*q_proj"):
        load_backbone(tiny_checkpoint, lora=LoraSettings(targets="query"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "lora.rank=0"),
        ({"alpha": 0}, "lora.alpha=0"),
        ({"targets": "("}, "no regular expression"),
        ({"rnak": 4}, "unknown setting 'lora.rnak'; did you mean rank"),
    ],
)
def test_settings_that_make_no_sense_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_settings(SFTSettings, {"lora": wrong})
    assert parse_settings(SFTSettings, ["lora=null"]).lora is None
    assert parse_settings(SFTSettings, ["lora.rank=3"]).lora == LoraSettings(rank=3)


def test_freezing_may_not_leave_nothing_to_train(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"freeze '\.\*' leaves no parameter of the model to train"):
        load_backbone(tiny_checkpoint, freeze=".*")
    lora = LoraSettings(rank=2, targets=r".*\.(q|v)_proj")
    with pytest.raises(ValueError, match=r"freeze '\.\*lora_\.\*' leaves no parameter"):
        load_backbone(tiny_checkpoint, lora=lora, freeze=".*lora_.*")
    # The base weights are frozen already: a pattern may match them alone.
    model = load_backbone(tiny_checkpoint, lora=lora, freeze=r".*\.base_layer\..*").model
    assert {"lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad} == {True}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_multiplied_in_the_backbones_dtype_and_learn_in_float32(tiny_checkpoint: Path, dtype: str) -> None:
    model = load_backbone(tiny_checkpoint, dtype=dtype, lora=LoraSettings(rank=2)).model
    (adapted,) = [
        layer for name, layer in model.named_modules() if name.endswith("language_model.layers.0.mlp.up_proj")
    ]
    products: list[torch.dtype] = []
    for matrix in (adapted.lora_A["default"], adapted.lora_B["default"]):
        torch.nn.init.normal_(matrix.weight)
        matrix.register_forward_hook(lambda _matrix, args, output: products.extend([args[0].dtype, output.dtype]))
    inputs = torch.randn(5, adapted.in_features, dtype=model.dtype)
    output = adapted(inputs)
    output.sum().backward()
    assert {*products, output.dtype} == {model.dtype}
    assert {parameter.grad.dtype for parameter in trainable(adapted) if parameter.grad is not None} == {torch.float32}
    exact = adapted.base_layer(inputs).float() + inputs.float() @ adapted.get_delta_weight("default").T
    torch.testing.assert_close(output.float(), exact, rtol=0.02, atol=0.02 * exact.abs().max().item())


def test_other_adapters_than_those_there_are_refused(tiny_checkpoint: Path) -> None:
    model = load_backbone(tiny_checkpoint, lora=LoraSettings(rank=2, alpha=4, targets=r".*q_proj")).model
    with pytest.raises(ValueError, match=r"rank 2 and alpha 4 on 3 layers, but rank 2 and alpha 4 on \d+ are asked"):
        ensure_adapter(model, LoraSettings(rank=2, alpha=4))


def test_an_adapter_is_saved_as_the_same_bytes_by_every_process(tiny_checkpoint: Path, tmp_path: Path) -> None:
    backbone = load_backbone(tiny_checkpoint, lora=LoraSettings(**LORA))
    backbone.save(tmp_path / "once")
    said = (tmp_path / "once" / "adapter_config.json").read_text()
    named = json.loads(said)["target_modules"]
    assert len(named) > 10
    assert named == sorted(named)  # a set's order is another in each process
    load_backbone(tmp_path / "once").save(tmp_path / "again")
    assert (tmp_path / "again" / "adapter_config.json").read_text() == said


def test_an_adapter_whose_base_model_is_gone_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    load_backbone(tiny_checkpoint, lora=LoraSettings(rank=2)).save(tmp_path)
    record = json.loads((tmp_path / "adapter_config.json").read_text())
    assert record["base_model_name_or_path"] == str(tiny_checkpoint)
    (tmp_path / "adapter_config.json").write_text(json.dumps(record | {"base_model_name_or_path": "gone/away/x"}))
    with pytest.raises(ValueError, match=r"no model at 'gone/away/x' \(the base model of the adapter in "):
        load_backbone(tmp_path)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own use
def test_peft_itself_reads_the_adapter(tiny_checkpoint: Path, tmp_path: Path) -> None:
    ours = load_backbone(tiny_checkpoint, lora=LoraSettings(rank=2)).model
    for parameter in trainable(ours):
        torch.nn.init.normal_(parameter, std=0.1)
    ours.save_pretrained(tmp_path)
    theirs = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(tiny_checkpoint), str(tmp_path))
    ids = torch.arange(40, 60)[None]
    with torch.no_grad():
        assert torch.equal(ours.eval()(input_ids=ids).logits, theirs.eval()(input_ids=ids).logits)


def test_sft_ppo_and_evaluation_with_adapters(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """With the workflow's commands. PPO continues to train SFT's adapter on the same base model."""
    data, sft, ppo = (str(tmp_path / name) for name in ("data", "sft", "ppo"))
    lora = f"lora={json.dumps(LORA)}"
    common = ["device=cpu", lora]
    small = [
        "total_env_steps=16",
        "num_envs=4",
        "num_steps=8",
        "ppo_epochs=1",
        "minibatch_size=8",
        "micro_batch_size=8",
    ]
    assert main(["sft-data", "--task", "NumberLine", "--out", data, "--set", "samples=16"]) == 0
    train = ["--data", data, "--init", str(tiny_checkpoint), "--out", sft]
    assert main(["sft", *train, "--set", "batch_size=8", "micro_batch_size=8", "learning_rate=1e-2", *common]) == 0
    init = f"{sft}/checkpoint"
    play = ["--task", "NumberLine", "--init", init, "--out", ppo]
    speed = ["learning_rate=1e-2", "max_new_tokens=12", "value_sizes=[16]", "temperature=0.7"]
    assert main(["ppo", *play, "--set", *small, *speed, *common]) == 0
    before, after = (_adapter(Path(folder)) for folder in (init, f"{ppo}/checkpoint"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for folder in (init, f"{ppo}/checkpoint"):
        assert json.loads(Path(folder, "adapter_config.json").read_text())["base_model_name_or_path"] == str(
            tiny_checkpoint
        )
    assert Path(ppo, "checkpoint/value_head.safetensors").is_file()
    held_out = str(tmp_path / "evaluation")
    assert main(["evaluate", f"{ppo}/checkpoint", "NumberLine", "--out", held_out, "--set", "episodes=2"]) == 0
    assert json.loads(Path(held_out, "summary.json").read_text())["kind"] == "ppo"
    lines = [json.loads(line) for line in Path(ppo, "metrics.jsonl").read_text().splitlines()]
    assert max(line["first_ratio_error"] for line in lines) < 1e-4


def _adapter(folder: Path) -> dict[str, torch.Tensor]:
    model = ActorCritic.load(folder, temperature=1.0, max_new_tokens=1).model
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}


def test_an_adapter_finds_its_base_model_from_any_folder(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(tiny_checkpoint, project / "results" / "base")
    monkeypatch.chdir(project)
    adapted = load_backbone("results/base", lora=LoraSettings(rank=2))
    adapted.save(Path("results/ppo/checkpoint"))
    expected = adapted.model.state_dict()
    for place, adapter in ((project, "results/ppo/checkpoint"), (project / "results", "ppo/checkpoint")):
        monkeypatch.chdir(place)
        found = load_backbone(adapter).model.state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())

"""An exported checkpoint is whole, has the hub's names, and says what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from httpx import ConnectError
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PixtralVisionConfig,
    PreTrainedModel,
)

from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.core.files import sha256_of
from rl4vlm.core.output import output_checksums
from rl4vlm.export.run import model_card, run
from rl4vlm.models.hub_names import use_hub_names
from rl4vlm.models.loading import load_backbone
from rl4vlm.models.lora import merge
from tests.models.families import write_llava_next

RECORD: dict[str, Any] = {
    "stage": "ppo",
    "settings": {"task": "NumberLine", "style": "cot", "thought_prob_coef": 0.5, "quantize": None},
    "seeds": {"ppo": 3},
    "inputs": {"init": {"path": "results/sft/NumberLine-cot/checkpoint", "sha256": "abc"}},
    "code": {"revision": "0123"},
}
SUMMARY = {"task": "NumberLine", "episodes": 50, "success_rate": 90.0, "ci_low": 78.64, "ci_high": 95.65}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run's checkpoint of adapters that change what the model says."""
    base = tmp_path / "base"
    base.mkdir()
    write_llava_next(base)
    backbone = load_backbone(base, lora=LoraSettings(rank=2))
    with torch.no_grad():
        for name, weight in backbone.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.01)
    backbone.save(tmp_path / "run" / "checkpoint")
    (tmp_path / "run" / "run.json").write_text(json.dumps(RECORD))
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "summary.json").write_text(json.dumps(SUMMARY))
    checkpoint = tmp_path / "run" / "checkpoint"
    played = {"policy": {"path": str(checkpoint), "sha256": sha256_of(checkpoint)}}
    (tmp_path / "eval" / "run.json").write_text(json.dumps({"stage": "evaluation", "inputs": played}))
    return checkpoint


def test_adapters_are_merged_and_rounded_once_under_the_hubs_names(trained: Path, tmp_path: Path) -> None:
    run(checkpoint=trained, out=tmp_path / "out", dtype="bfloat16", evaluations=[tmp_path / "eval"])
    names = set(load_file(tmp_path / "out" / "model.safetensors"))
    assert "vision_tower.vision_model.embeddings.class_embedding" in names
    assert not [name for name in names if "lora" in name or "vision_model.vision_model" in name]
    merged = merge(load_backbone(trained).model).state_dict()
    exported = load_backbone(tmp_path / "out", dtype="bfloat16").model.state_dict()
    assert exported.keys() == merged.keys()
    assert all(torch.equal(weight, merged[name].bfloat16()) for name, weight in exported.items() if weight.ndim)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# RL4VLM on NumberLine" in card
    assert "| NumberLine | 50 | 90.0 | 78.6 to 95.7 |" in card
    for part in ("SHA-256 abc", "seed of ppo: 3", "0123", '"thought_prob_coef": 0.5'):
        assert part in card
    assert "quantize" not in card


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("weights", ["kept", "removed", "replaced"])
def test_the_card_of_ppo_names_the_demonstrations_and_the_base_model(
    weights: str, moved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    start = results / "sft" / "NumberLine-cot-seed1" / "checkpoint"
    start.mkdir(parents=True)
    (start / "model.safetensors").write_text("weights")
    made_from = {
        "data": {"path": "results/sft_data/NumberLine-cot", "sha256": "da7a"},
        "init": {"path": "results/base_model/tiny", "sha256": "ba5e"},
    }
    record = {"stage": "sft", "inputs": made_from, "outputs": output_checksums(start.parent, "run.json")}
    (start.parent / "run.json").write_text(json.dumps(record))
    path = str(start.relative_to(tmp_path))
    init = {"path": path, "sha256": sha256_of(start)}
    if weights == "removed":
        shutil.rmtree(start)
    elif weights == "replaced":
        (start / "model.safetensors").write_text("other weights")
        record["outputs"] = output_checksums(start.parent, "run.json")
        (start.parent / "run.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    if moved:
        results = results.rename(tmp_path / "elsewhere")
    where = results / "ppo" / "NumberLine-cot-lambda0.5-seed1" / "run.json"
    card = model_card({**RECORD, "inputs": {"init": init}}, [], where)
    behind = [
        "  - data: `results/sft_data/NumberLine-cot`, SHA-256 da7a",
        "  - init: `results/base_model/tiny`, SHA-256 ba5e",
    ]
    # The record beside other weights says nothing of those that PPO started from.
    expected = [f"- init: `{path}`, SHA-256 {init['sha256']}", *(behind if weights != "replaced" else [])]
    assert [line for line in card.splitlines() if "SHA-256" in line] == expected


def test_the_card_names_a_model_of_the_hub(tmp_path: Path) -> None:
    init = {"path": "llava-hf/llava-v1.6-mistral-7b-hf", "sha256": None}
    card = model_card({**RECORD, "inputs": {"init": init}}, [], tmp_path / "run.json")
    assert "- init: `llava-hf/llava-v1.6-mistral-7b-hf`\n" in card


def test_a_record_beside_a_base_model_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"stage": "tables", "inputs": {"config": {"path": "config.yaml"}}}))
    init = {"path": str(tmp_path / "base"), "sha256": None}
    assert "config.yaml" not in model_card({**RECORD, "inputs": {"init": init}}, [], tmp_path / "ppo" / "run.json")


@pytest.mark.parametrize(
    ("harm", "message"), [("task", r"summary\.json has no 'task'"), (None, r"summary\.json is damaged or was changed")]
)
def test_a_damaged_summary_is_named(harm: str | None, message: str, trained: Path, tmp_path: Path) -> None:
    summary = tmp_path / "eval" / "summary.json"
    outputs = output_checksums(tmp_path / "eval", "run.json")
    (tmp_path / "eval" / "run.json").write_text(json.dumps({"outputs": outputs}))
    summary.write_text(json.dumps({name: value for name, value in SUMMARY.items() if name != harm} | {"episodes": 51}))
    with pytest.raises(ValueError, match=message):
        run(checkpoint=trained, out=tmp_path / "out", dtype="float32", evaluations=[tmp_path / "eval"])


@pytest.mark.parametrize("other", ["weights", "scripted policy"])
def test_the_card_shows_no_evaluation_of_something_else(other: str, trained: Path, tmp_path: Path) -> None:
    if other == "weights":
        (trained / "adapter_config.json").write_text((trained / "adapter_config.json").read_text() + "\n")
    else:
        (tmp_path / "eval" / "run.json").write_text(json.dumps({"stage": "evaluation", "inputs": {}}))
    played = str(trained) if other == "weights" else "no checkpoint"
    with pytest.raises(ValueError, match=f"eval evaluated {played}, not the weights of"):
        run(checkpoint=trained, out=tmp_path / "out", dtype="float32", evaluations=[tmp_path / "eval"])
    assert not (tmp_path / "out").exists()


def test_an_export_that_cannot_be_pushed_is_kept(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", offline)
    out = tmp_path / "my export"
    # Without --private, the command would make a public repository.
    with pytest.raises(ValueError, match=f"to me/model: no route to host.*hf upload --private me/model '{out}'"):
        run(checkpoint=trained, out=out, dtype="float32", push="me/model")
    assert (out / "model.safetensors").is_file()


def test_a_name_that_no_repository_can_have_is_refused_first(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'my model'"):
        run(checkpoint=trained, out=tmp_path / "out", dtype="float32", push="my model")
    assert not (tmp_path / "out").exists()


def saved_names(model: PreTrainedModel, folder: Path) -> set[str]:
    """The names of weights in a saved model's several files, and in their index."""
    use_hub_names(model)
    model.save_pretrained(folder, max_shard_size="20KB")
    placed = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    found = {name: file.name for file in folder.glob("*.safetensors") for name in load_file(file)}
    assert found == placed
    return set(found)


@pytest.mark.parametrize("again", [False, True])
def test_a_tower_that_was_saved_without_its_prefix_gets_it_back(again: bool, trained: Path, tmp_path: Path) -> None:
    model = load_backbone(tmp_path / "base").model
    if again:
        saved_names(model, tmp_path / "first")
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / "first")
    names = saved_names(model, tmp_path / "out")
    assert {name.split(".")[1] for name in names if name.startswith("vision_tower")} == {"vision_model"}
    assert not [name for name in names if "vision_model.vision_model" in name]


def test_a_tower_of_another_class_keeps_its_names(tmp_path: Path) -> None:
    """Pixtral's has no `vision_model` on the hub."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = PixtralVisionConfig(**sizes, image_size=28, patch_size=14)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=LlamaConfig(**sizes, vocab_size=400))
    )
    names = saved_names(model, tmp_path)
    assert "vision_tower.patch_conv.weight" in names
    assert not [name for name in names if "vision_model" in name]


def test_a_checkpoint_without_a_training_is_refused(trained: Path, tmp_path: Path) -> None:
    (trained.parent / "run.json").write_text(json.dumps({**RECORD, "stage": "tables"}))
    with pytest.raises(ValueError, match="is not the record of a training"):
        run(checkpoint=trained, out=tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


def test_what_is_no_export_is_not_replaced(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(ValueError, match="out"):
        run(checkpoint=trained, out=tmp_path / "out", dtype="float32")
    assert (tmp_path / "out" / "notes.txt").exists()

"""Loading a backbone, and choosing its device."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rl4vlm.config.fields import Attention
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.core.types import Style
from rl4vlm.export.run import run as export
from rl4vlm.models.cnn import CNNActorCritic
from rl4vlm.models.devices import choose_device
from rl4vlm.models.loading import load_backbone
from rl4vlm.models.memory import estimate
from rl4vlm.policies.registry import make_policy
from rl4vlm.policies.vlm import VLMPolicy
from tests.models.families import FAMILIES, write_llava_next


def rewrite(folder, change):
    """Replace a checkpoint's weights by what `change` returns for them."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def test_auto_takes_a_gpu_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(name) -> None:
    with pytest.raises(ValueError, match=f"device '{name}'"):
        choose_device(name)


def test_a_precision_nobody_knows_is_named(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="float12"):
        load_backbone(tiny_checkpoint, dtype="float12")


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_attention_is_computed_as_asked_for_in_every_part(kind: Attention, tiny_checkpoint: Path) -> None:
    for settings in (SFTSettings(attn_implementation=kind), PPOSettings(attn_implementation=kind)):
        config = load_backbone(tiny_checkpoint, **settings.loading).model.config
        found = {part._attn_implementation for part in (config, config.text_config, config.vision_config)}
        assert found == {kind}
    options = EvaluationSettings(attn_implementation=kind, device="cpu").loading
    policy = make_policy(str(tiny_checkpoint), Style.COT, **options)
    assert isinstance(policy, VLMPolicy)
    assert policy.model.model.config._attn_implementation == kind


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=tmp_path.name):
        load_backbone(tmp_path)


LOADERS = {
    "load": load_backbone,
    "memory": lambda folder: estimate(folder, MemorySettings()),
    "export": lambda folder: export(checkpoint=folder, out=folder.parent / "exported", dtype="float32"),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_of_a_runs_folder_the_checkpoint_in_it_is_named(load, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    expected = f"no image-text-to-text checkpoint at '{run}': did you mean {run}/checkpoint?"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        load(run)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_a_checkpoint_of_the_cnn_is_no_language_model(load, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "cnn.json").write_text("{}")
    with pytest.raises(ValueError, match=f"^'{checkpoint}' is a CNN.RL checkpoint and no vision-language model$"):
        load(checkpoint)
    with pytest.raises(ValueError, match=rf"no CNN checkpoint at .*: did you mean {checkpoint}\?$"):
        CNNActorCritic.load(tmp_path, temperature=1.0)


def test_a_package_that_a_processor_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FAMILIES["SmolVLM"].write(tmp_path)
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(ValueError, match=r"needs a package that is not installed: .*num2words"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("load", [load_backbone, lambda folder: estimate(folder, MemorySettings())])
def test_code_of_a_checkpoint_is_never_run_whatever_is_typed(load, tmp_path: Path, monkeypatch) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    for name in ("config.json", "processor_config.json"):
        (tmp_path / name).write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match=rf"{tmp_path.name}' needs Python code of its own.*never run"):
        load(tmp_path)


def test_code_of_a_model_with_a_known_config_is_never_run_either(tmp_path: Path, monkeypatch) -> None:
    config = {"model_type": "bert", "auto_map": {"AutoModelForImageTextToText": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match=rf"{tmp_path.name}' needs Python code of its own.*never run"):
        estimate(tmp_path, MemorySettings())


@pytest.mark.parametrize("one_view", [False, True])
@pytest.mark.parametrize("name", ["vision_tower.encoder.layers.1.mlp.fc1.bias", "language_model.lm_head.weight"])
def test_missing_and_mismatched_weights_are_named(name, one_view, tmp_path: Path) -> None:
    write_llava_next(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    short = name.removeprefix("language_model.")
    rewrite(tmp_path, lambda weights: {key: weight for key, weight in weights.items() if key != name})
    with pytest.raises(ValueError, match=rf"'{tmp_path}' are incomplete: (model\.)?{short} is missing$"):
        load_backbone(tmp_path, one_view=one_view, lora=LoraSettings(rank=2))
    (tmp_path / "model.safetensors").write_bytes(whole)
    rewrite(tmp_path, lambda weights: {**weights, name: weights[name][1:].clone()})
    shapes = rf"has shape \({len(load_file(tmp_path / 'model.safetensors')[name])}, .*\), not \("
    with pytest.raises(ValueError, match=rf"incomplete: (model\.)?{short} {shapes.replace(', .*', ',.*')}"):
        load_backbone(tmp_path, one_view=one_view)


def test_a_checkpoint_of_other_names_is_refused_with_their_number(tmp_path: Path) -> None:
    write_llava_next(tmp_path)
    rewrite(tmp_path, lambda weights: {f"other.{name}": weight for name, weight in weights.items()})
    with pytest.raises(ValueError, match=r"is missing, .* is missing, .* is missing and 62 more$"):
        load_backbone(tmp_path)


def test_an_adapter_must_be_whole_too(tmp_path: Path) -> None:
    write_llava_next(tmp_path / "base")
    load_backbone(tmp_path / "base", lora=LoraSettings(rank=2)).save(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    _, *others = sorted(weights := load_file(file))
    save_file({name: weights[name] for name in others}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{tmp_path / 'adapter'}' are incomplete: .*lora_A.* is missing$"):
        load_backbone(tmp_path / "adapter")


def test_a_head_tied_to_the_embeddings_may_be_missing(tmp_path: Path) -> None:
    FAMILIES["Gemma3"].write(tmp_path)
    assert not any("lm_head" in name for name in load_file(tmp_path / "model.safetensors"))
    model = load_backbone(tmp_path).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def as_on_the_hub(name):
    """A weight's name in the published checkpoint of the paper's model."""
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


@pytest.mark.parametrize("one_view", [False, True])
def test_the_published_names_of_weights_are_understood(one_view, tmp_path: Path) -> None:
    write_llava_next(tmp_path)
    expected = load_backbone(tmp_path, one_view=one_view).model.state_dict()
    rewrite(tmp_path, lambda weights: {as_on_the_hub(name): weight for name, weight in weights.items()})
    names = set(load_file(tmp_path / "model.safetensors"))
    # As in the published index.
    assert {
        "image_newline",
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "vision_tower.vision_model.pre_layrnorm.weight",
    } <= names
    loaded = load_backbone(tmp_path, one_view=one_view).model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], weight) for name, weight in expected.items())

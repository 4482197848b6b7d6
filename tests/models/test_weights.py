"""Damaged and impossible weights are named when they are read, and are never written."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.cnn import CNNSizes
from rl4vlm.models.cnn import CNNActorCritic
from rl4vlm.models.loading import load_backbone
from rl4vlm.models.value_head import ValueHead
from rl4vlm.models.weights import saving

SIZES = CNNSizes(image_size=40, channels=(4, 4, 4), width=16, text_embedding=4, text_width=8)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """An adapter of rank 2 on the tiny checkpoint."""
    load_backbone(tiny_checkpoint, lora=LoraSettings(rank=2)).save(tmp_path)
    return tmp_path


def replace_entry(file: Path, *keys: str, value: object) -> None:
    """Give the entry of a JSON file that `keys` lead to another value."""
    content = entry = json.loads(file.read_text())
    *above, last = keys
    for key in above:
        entry = entry[key]
    entry[last] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("harm", ["cut", "empty"])
def test_a_file_that_was_cut_is_named(checkpoint: Path, name: str, harm: str) -> None:
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
    with pytest.raises(ValueError, match=rf"model/{name} is damaged"):
        load_backbone(checkpoint)


LARGE = 10**10
"""A size for which no machine has enough memory."""


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("text_config", "intermediate_size", "[0-9,]{15,} weights.*hold [0-9,]{5,7}$"),
        ("text_config", "vocab_size", "[0-9,]{15,} weights"),
        ("text_config", "num_hidden_layers", "10,000,000,000 layers.*hold [0-9]{2} tensors$"),
        ("vision_config", "num_hidden_layers", "10,000,000,000 layers"),
        ("vision_config", "image_size", "weights|number|storage|overflow"),
    ],
)
def test_a_config_that_asks_for_far_more_than_the_weights_is_refused(
    checkpoint: Path, part: str, name: str, message: str
) -> None:
    replace_entry(checkpoint / "config.json", part, name, value=LARGE)
    with pytest.raises(ValueError, match=rf"(?i)no image-text-to-text checkpoint at '{checkpoint}': .*({message})"):
        load_backbone(checkpoint)


def test_an_adapter_that_asks_for_a_higher_rank_than_its_weights_is_refused(adapter: Path) -> None:
    replace_entry(adapter / "adapter_config.json", "r", value=LARGE)
    with pytest.raises(ValueError, match=rf"asks for rank 10,000,000,000, but the weights in {adapter} have rank 2"):
        load_backbone(adapter)


def test_an_adapter_with_unknown_entries_is_refused(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(file.read_text().replace("lora_alpha", "lora_alphb"))
    with pytest.raises(ValueError, match=rf"{file} is no config of an adapter: .*'lora_alphb'"):
        load_backbone(adapter)


def test_an_adapter_whose_own_config_does_not_fit_its_base_model_is_named(adapter: Path) -> None:
    replace_entry(adapter / "config.json", "vision_config", "image_size", value=75)
    with pytest.raises(ValueError, match=rf"base model of the adapter in {adapter}\) are incomplete: .*position_emb"):
        load_backbone(adapter)


@pytest.mark.parametrize("name", ["image_size", "width", "text_width"])
def test_a_network_that_asks_for_far_more_than_its_weights_is_refused(tmp_path: Path, name: str) -> None:
    CNNActorCritic(("+", "-"), reads_text=True, sizes=SIZES, temperature=1.0).save(tmp_path)
    replace_entry(tmp_path / "cnn.json", "sizes", name, value=100_000_000)
    with pytest.raises(ValueError, match=r"cnn\.json does not describe the network of cnn\.safetensors"):
        CNNActorCritic.load(tmp_path, temperature=1.0)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_of_something_else_names_the_checkpoint(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text("[]")
    with pytest.raises(ValueError, match=rf"no image-text-to-text checkpoint at '{checkpoint}'"):
        load_backbone(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_neither_read_nor_written(checkpoint: Path, value: float) -> None:
    backbone = load_backbone(checkpoint)
    next(backbone.model.parameters()).data.view(-1)[3] = value
    with pytest.raises(ValueError, match=r"other: weight \S+ holds NaN or infinite numbers"):
        backbone.save(checkpoint.with_name("other"))
    assert not checkpoint.with_name("other").exists()
    weights = load_file(checkpoint / "model.safetensors")
    weights["language_model.model.norm.weight"].fill_(value)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model: weight \S+norm.weight holds NaN or infinite numbers"):
        load_backbone(checkpoint)


def test_of_the_cnn_and_the_value_head(tmp_path: Path) -> None:
    network = CNNActorCritic(("+", "-"), reads_text=False, sizes=SIZES, temperature=1.0)
    head = ValueHead(8, (4,))
    for module, name in ((network, "cnn.safetensors"), (head, "value_head.safetensors")):
        module.save(tmp_path)
        whole = (tmp_path / name).read_bytes()
        for broken in (whole[:-9], b""):
            (tmp_path / name).write_bytes(broken)
            with pytest.raises(ValueError, match=rf"{name} cannot be read"):
                CNNActorCritic.load(tmp_path, temperature=1.0) if module is network else ValueHead.load(tmp_path)
        save_file({"x": torch.zeros(1)}, tmp_path / name)
        with pytest.raises(ValueError, match=r"cnn\.json does not describe|is no value head"):
            CNNActorCritic.load(tmp_path, temperature=1.0) if module is network else ValueHead.load(tmp_path)
        next(module.parameters()).data.view(-1)[0] = torch.nan
        with pytest.raises(ValueError, match=rf"{name}: weight \S+ holds NaN"):
            module.save(tmp_path)
    for text in ("{", "[]", "{}"):
        (tmp_path / "cnn.json").write_text(text)
        with pytest.raises(ValueError, match=r"cnn\.json "):
            CNNActorCritic.load(tmp_path, temperature=1.0)


def test_a_full_disk_is_told_by_its_number_whatever_library_writes(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    with pytest.raises(OSError, match="somewhere") as failed, saving(Path("somewhere")):
        tokenizer.save("/dev/full")
    assert failed.value.errno == errno.ENOSPC

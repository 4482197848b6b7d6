"""Loading a backbone and choosing where it runs."""

from __future__ import annotations

import pytest
import torch

from rl4vlm.models.loading import accelerator_on, choose_device, load_backbone
from tests.models.families import FAMILIES


def test_auto_takes_a_gpu_where_there_is_one():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=f"device '{name}'"):
        choose_device(name)


def test_training_runs_where_it_is_told():
    assert accelerator_on("cpu").device.type == "cpu"


def test_a_precision_nobody_knows_is_named(tiny_checkpoint):
    with pytest.raises(ValueError, match="float12"):
        load_backbone(tiny_checkpoint, dtype="float12")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ValueError, match=tmp_path.name):
        load_backbone(tmp_path)


def test_a_package_that_a_processor_needs_is_named(tmp_path, monkeypatch):
    FAMILIES["SmolVLM"].write(tmp_path)
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(ValueError, match=r"needs a package that is not installed: .*num2words"):
        load_backbone(tmp_path)

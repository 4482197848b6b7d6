"""LLaVA-1.6 as the paper runs it: one view of 336x336 pixels, 576 tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.models.encode import Encoded, Encoder
from rl4vlm.models.loading import Backbone, load_backbone
from tests.models.families import write_idefics3, write_llava_next


@pytest.fixture(scope="module")
def llava16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA-NeXT with the real image sizes: patches of 14 pixels in views of 336."""
    folder = tmp_path_factory.mktemp("llava16")
    write_llava_next(folder, side=336, patch=14)
    return folder


def prompt(backbone: Backbone) -> Encoded:
    image = np.random.default_rng(0).integers(0, 256, size=(300, 300, 3), dtype=np.uint8)
    return Encoder(backbone.processor).prompt(image, "Read.")


def image_tokens(backbone: Backbone) -> int:
    return int((prompt(backbone).input_ids == backbone.model.config.image_token_id).sum())


def test_the_grid_of_views_is_left_out(llava16: Path, tmp_path: Path) -> None:
    full, one = load_backbone(llava16), load_backbone(llava16, one_view=True)
    # A square image fills one view of a 1x2 grid, with 24 newlines; then the view of the whole.
    assert image_tokens(full) == 576 + 24 + 576
    assert image_tokens(one) == 576
    assert isinstance(one.model, LlavaForConditionalGeneration)
    one.save(tmp_path)
    assert image_tokens(load_backbone(tmp_path)) == 576
    assert image_tokens(load_backbone(tmp_path, one_view=True)) == 576


def test_a_processor_that_does_not_count_the_class_token(llava16: Path, tmp_path: Path) -> None:
    """Old checkpoints have processors without these numbers."""
    folder = shutil.copytree(llava16, tmp_path / "old")
    file = folder / "processor_config.json"
    config = json.loads(file.read_text())
    for name in ("num_additional_image_tokens", "patch_size", "vision_feature_select_strategy"):
        config.pop(name, None)
    file.write_text(json.dumps(config))
    assert image_tokens(load_backbone(folder)) == 576 + 24 + 576
    assert image_tokens(load_backbone(folder, one_view=True)) == 576


def test_the_view_and_the_weights_are_those_of_the_whole(llava16: Path) -> None:
    full, one = load_backbone(llava16), load_backbone(llava16, one_view=True)
    theirs, ours = prompt(full).images, prompt(one).images
    torch.testing.assert_close(ours["pixel_values"][0], theirs["pixel_values"][0, 0])
    with torch.no_grad():
        grid = full.model.model.get_image_features(**theirs).pooler_output[0]
        whole = one.model.model.get_image_features(**ours).pooler_output[0]
    torch.testing.assert_close(whole, grid[:576])
    left = full.model.state_dict()
    assert left.keys() - one.model.state_dict().keys() == {"model.image_newline"}
    assert all(torch.equal(left[name], tensor) for name, tensor in one.model.state_dict().items())


def test_an_adapter_remembers_it(llava16: Path, tmp_path: Path) -> None:
    load_backbone(llava16, one_view=True, lora=LoraSettings(rank=2)).save(tmp_path)
    again = load_backbone(tmp_path)
    assert isinstance(again.model, LlavaForConditionalGeneration)
    assert image_tokens(again) == 576


def test_other_families_leave_out_their_tiles(tmp_path: Path) -> None:
    write_idefics3(tmp_path)
    assert image_tokens(load_backbone(tmp_path)) == 5 * 4
    assert image_tokens(load_backbone(tmp_path, one_view=True)) == 4

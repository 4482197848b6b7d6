"""The shipped base models: small, complete, and made with the settings in the config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoProcessor

from rl4vlm.config.code_digest import code_digest
from rl4vlm.models.encode import Encoder
from rl4vlm.models.loading import load_backbone

ROOT = Path(__file__).parents[2]
FOLDERS = sorted((ROOT / "workflow" / "resources" / "base_model").iterdir())
SECTION = yaml.safe_load((ROOT / "config" / "scales" / "embedded.yaml").read_text())["base_model"]


def test_there_is_one_for_each_name_of_the_config() -> None:
    names = {SECTION["defaults"]["name"], *(own["name"] for own in SECTION["per_task"].values())}
    assert {folder.name for folder in FOLDERS} == names


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_loads_and_is_small(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_size < 8_000_000
    backbone = load_backbone(folder)
    assert 1e6 < sum(weight.numel() for weight in backbone.model.parameters()) < 3e6
    ids = Encoder(backbone.processor).reply('{"action": "go to desk 1"}')
    assert Encoder(backbone.processor).decode(ids) == '{"action": "go to desk 1"}'


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_code_that_made_it_is_the_code_of_today(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    if "digest" not in record["code"]:
        pytest.skip("its record has no digest of the code that made it: docs/log.md says why")
    tasks = record["settings"]["pretrain_tasks"]
    assert record["code"]["digest"] == code_digest("rl4vlm.base_model.learn", tasks), (
        "the code of pre-training has changed: make it anew (make base-models), or drop the digest and say why in "
        "docs/log.md"
    )


def test_alfworlds_was_made_by_the_settings_of_the_config() -> None:
    own = SECTION["per_task"]["ALFWorld"]
    made = json.loads((ROOT / "workflow/resources/base_model" / own["name"] / "run.json").read_text())["settings"]
    # The record has the names that the settings had when the weights were made.
    former = {"pretrain_tasks": "tasks", "batch_size": "batch", "image_size": "picture"}
    for key, value in own["settings"].items():
        then = made[former.get(key, key)]
        found = {name: then[former.get(name, name)] for name in value} if isinstance(value, dict) else then
        assert found == value, key


def test_alfworlds_names_and_verbs_are_tokens_of_their_own() -> None:
    tokenizer = AutoProcessor.from_pretrained(ROOT / "workflow/resources/base_model/alfworld").tokenizer
    text = 'Legal actions: "go to fridge 1", "take potato 1 from fridge 1".\nYour task: cool some potato and put it in'
    tokens = [tokenizer.decode([i]) for i in tokenizer(text)["input_ids"]]
    assert tokens.count(" potato") == tokens.count(" fridge") == 2
    assert {' "go to', ' "take', " 1"} <= set(tokens)

"""The shipped base models: small, complete, and made with the settings in the config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoProcessor

from rl4vlm.base_model.learn import PretrainState, begin, train
from rl4vlm.config.code_digest import code_digest
from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.pretrain import PretrainSettings
from rl4vlm.models.encode import Encoder
from rl4vlm.models.loading import load_backbone
from rl4vlm.results.provenance import METRICS

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
def test_the_code_of_today_would_make_it_again(folder: Path, tmp_path: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    if "digest" not in record["code"]:
        pytest.skip("it has no digest: the texts that it was trained on have changed since (docs/log.md)")
    digest = code_digest("rl4vlm.base_model.learn", SECTION["defaults"]["settings"]["pretrain_tasks"])
    if digest != record["code"]["digest"]:
        assert_same_losses(folder, tmp_path, steps=4)
        pytest.skip(
            f"the code of its pre-training has changed, but not its first losses. If `make test-base-models` passes, "
            f"write {digest} into its run.json"
        )


@pytest.mark.long
def test_many_first_losses_are_those_on_record(tmp_path: Path) -> None:
    assert_same_losses(ROOT / "workflow/resources/base_model" / SECTION["defaults"]["name"], tmp_path, steps=48)


def assert_same_losses(folder: Path, tmp_path: Path, steps: int) -> None:
    """Repeat the first steps of the card games' pre-training, and compare the losses with those shipped."""
    settings = build_settings(PretrainSettings, SECTION["defaults"]["settings"])

    class Enough(Exception):
        """These steps are enough; the schedule of the learning rate is that of the whole run."""

    def stop(state: PretrainState) -> None:
        if state.done == steps:
            raise Enough

    with pytest.raises(Enough):
        train(begin(settings), settings, tmp_path, stop)
    shipped = [json.loads(line)["loss"] for line in (folder / METRICS).read_text().splitlines()[:steps]]
    again = [json.loads(line)["loss"] for line in (tmp_path / METRICS).read_text().splitlines()]
    # Another processor rounds differently; over 48 steps that came to 1e-6.
    assert again == pytest.approx(shipped, abs=1e-3), "pre-train the base models anew: make base-models"


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

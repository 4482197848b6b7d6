"""Every setting is explained once, and from there in the help and on the page of settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.cli import main
from rl4vlm.cli.reference import CHAPTERS, meaning, settings_of, settings_page
from rl4vlm.config.schema import STAGES, Config
from rl4vlm.config.stages.memory import MemorySettings

ROOT = Path(__file__).parents[1]
HELP = {"sft-data": "sft_data", "sft": "sft", "ppo": "ppo", "cnn": "cnn", "evaluate": "evaluation"}


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "run `make docs`"


@pytest.mark.parametrize("kind", [Config, MemorySettings, *(kind for kinds in CHAPTERS.values() for kind in kinds)])
def test_every_setting_has_a_meaning(kind: type[Any]) -> None:
    assert all(setting.meaning.endswith((".", "...")) for setting in settings_of(kind))


def test_a_settings_default_may_change_in_a_subclass_but_not_its_meaning() -> None:
    assert meaning(STAGES["cnn"], "clip_range") == meaning(STAGES["ppo"], "clip_range")


@pytest.mark.parametrize("stage", HELP)
def test_a_stages_help_has_every_setting(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([stage, "--help"])
    shown = capsys.readouterr().out
    for setting in settings_of(STAGES[HELP[stage]]):
        default = "required" if setting.default is None else f"default {setting.default}"
        assert f"\n  {setting.name}: {setting.kind}; {default}\n" in shown
    unwrapped = " ".join(shown.split())
    assert all(setting.meaning in unwrapped for setting in settings_of(STAGES[HELP[stage]]))


def test_types_and_bounds_are_words() -> None:
    kinds = {setting.name: setting.kind for setting in settings_of(STAGES["ppo"])}
    assert kinds["num_envs"] == "whole number at least 1"
    assert kinds["gamma"] == "number from 0 to 1"
    assert kinds["process_timeout"] == "number above 0, at most 10000000"
    assert kinds["value_clip"] == "number above 0 or null"
    assert kinds["loggers"] == "list of tensorboard or wandb"
    assert kinds["lora"] == "mapping or null"
    assert kinds["lora.rank"] == "whole number at least 1"


def test_the_clip_range_is_explained_in_one_place() -> None:
    said = re.compile(r"probability ratio may move")
    places = [path for path in (ROOT / "rl4vlm").rglob("*.py") if said.search(path.read_text(encoding="utf-8"))]
    assert [path.name for path in places] == ["ppo_training.py"]
    assert not [path for path in (ROOT / "config").rglob("*.yaml") if "clip range" in path.read_text(encoding="utf-8")]

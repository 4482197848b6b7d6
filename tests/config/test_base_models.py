"""Which base model each task starts from, and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rl4vlm.config.base_models import base_model, base_models

CARDS: dict[str, Any] = {
    "name": "cards",
    "source": "shipped",
    "settings": {"pretrain_tasks": ["NumberLine"], "steps": 3},
}


def config(defaults: dict[str, Any] = CARDS, **tasks: dict[str, Any]) -> dict[str, Any]:
    return {"tasks": ["NumberLine", "Blackjack"], "base_model": {"defaults": defaults, "per_task": tasks}}


def test_tasks_of_one_name_share_a_model() -> None:
    (model,) = base_models(config()).values()
    assert model == base_model(config(), "NumberLine") == base_model(config(), "Blackjack")
    assert (model.kind, model.folder("results"), model.settings["steps"]) == ("shipped", "results/base_model/cards", 3)


def test_a_task_has_its_own_over_the_defaults() -> None:
    own = {"name": "hands", "source": "pretrain", "settings": {"pretrain_tasks": ["Blackjack"]}}
    models = base_models(config(Blackjack=own))
    assert {name: model.kind for name, model in models.items()} == {"cards": "shipped", "hands": "pretrain"}
    assert models["hands"].settings == {"pretrain_tasks": ["Blackjack"], "steps": 3}


def test_two_that_differ_need_two_names() -> None:
    with pytest.raises(ValueError, match="NumberLine and Blackjack start from models that differ, both named 'cards'"):
        base_models(config(Blackjack={"settings": {"steps": 4}}))


def test_a_model_of_the_hub_is_one_whatever_it_is_called() -> None:
    hub = {"name": "cards", "source": "someone/some-model", "revision": "refs/pr/1"}
    (model,) = base_models(config(hub, Blackjack={"name": "other", "settings": {"steps": 4}})).values()
    assert (model.kind, model.folder("out")) == ("hub", "out/base_model/someone--some-model@refs--pr--1")


def test_a_folder_is_used_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (model,) = base_models(config({"name": "cards", "source": str(tmp_path)})).values()
    assert (model.kind, model.folder("results")) == ("folder", str(tmp_path))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"source": "shiped"}, "source 'shiped': there is no such folder; did you mean shipped"),
        ({"source": "mistral"}, "source 'mistral': there is no such folder; a model of the hub is named owner/model"),
        ({"source": "./some/model"}, "no such folder"),
        ({"source": "/nowhere/model"}, "no such folder"),
        ({"source": "there/mine"}, "source 'there/mine': there is no such folder"),
        ({"source": "there"}, r"source 'there' is a folder without a config\.json"),
        ({"source": "shipped", "name": "card"}, "no weights named 'card' are shipped; did you mean cards"),
    ],
)
def test_a_model_that_is_nowhere_is_named(
    model: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "ready" / "cards").mkdir(parents=True)
    with pytest.raises(ValueError, match=f"config, base_model for NumberLine: .*{said}"):
        base_models(config({**CARDS, **model}), Path("ready"))


def test_it_is_told_where_games_are() -> None:
    reads = {"name": "cards", "source": "pretrain", "settings": {"pretrain_tasks": ["NumberLine", "Blackjack"]}}
    told = {**config(reads), "task_options": {"per_task": {"NumberLine": {"env": {"data": "games"}}}}}
    assert base_model(told, "Blackjack").settings["task_env"] == {"NumberLine": {"data": "games"}}
    assert "task_env" not in base_model(config(reads), "Blackjack").settings

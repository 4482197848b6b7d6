"""The base models that a config's tasks start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl4vlm.config.load import stage_settings, task_options
from rl4vlm.config.stages.backbone import is_hub_name
from rl4vlm.core.nearest import did_you_mean

EMBEDDED = ("pretrain", "shipped")
"""Sources of a model that this project pre-trained. Only such a model comes with a `perception.json`."""


@dataclass(frozen=True)
class BaseModel:
    """A base model.

    Attributes:
        name: its folder below `results/base_model`; for shipped weights also their folder in the workflow.
        source: `pretrain`, `shipped`, a folder, or a Hugging Face name.
        revision: branch, tag or commit of a Hugging Face model; None is the newest.
        settings: those of its pre-training; empty for a model from elsewhere.
    """

    name: str
    source: str
    revision: str | None
    settings: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """How it is obtained: `pretrain`, `shipped`, `folder` (used in place) or `hub` (downloaded)."""
        if self.source in EMBEDDED:
            return self.source
        return "folder" if Path(self.source).is_dir() else "hub"

    def folder(self, results_dir: str) -> str:
        """Where its checkpoint is, or will be."""
        return self.source if self.kind == "folder" else f"{results_dir}/base_model/{self.name}"


def base_model(config: Mapping[str, Any], task: str) -> BaseModel:
    """The base model that a task starts from.

    The settings of a model that is made here include, as `task_env`, the environment options of the tasks whose images
    it learns to read. A model from elsewhere has no settings. Its name is made from its source and revision, and the
    config's `name` is ignored.
    """
    found = stage_settings(config, "base_model", task)
    source, revision = str(found["source"]), found.get("revision")
    if source not in EMBEDDED:
        name = "@".join([source, *([revision] if revision else [])]).replace("/", "--")
        return BaseModel(name, source, revision, {})
    settings = dict(found.get("settings") or {})
    env = {
        name: options["env"]
        for name in settings.get("pretrain_tasks", ())
        if (options := task_options(config, name)).get("env")
    }
    return BaseModel(str(found["name"]), source, None, {**settings, "task_env": env} if env else settings)


def base_models(config: Mapping[str, Any], shipped: Path | None = None) -> dict[str, BaseModel]:
    """The base models of all tasks, by name.

    Args:
        config: the config.
        shipped: folder of the shipped weights, with one subfolder per model; None skips the check that they exist.

    Raises:
        ValueError: two different models have the same name, or a model cannot be found. This check downloads nothing.
    """
    found: dict[str, tuple[str, BaseModel]] = {}
    for task in config["tasks"]:
        model = base_model(config, task)
        first, known = found.setdefault(model.name, (task, model))
        if known != model:
            raise ValueError(
                f"config, base_model: {first} and {task} start from models that differ, both named {model.name!r}; "
                f"give one of them another name"
            )
        _check_source(task, model, shipped)
    return {name: model for name, (_, model) in found.items()}


def _check_source(task: str, model: BaseModel, shipped: Path | None) -> None:
    """Raise ValueError if a model's folder is missing or holds no model, or its source cannot be a hub name either."""
    place, source = f"config, base_model for {task}:", Path(model.source)
    if model.kind == "shipped" and shipped is not None and not (shipped / model.name).is_dir():
        there = sorted(path.name for path in shipped.glob("*") if path.is_dir())
        raise ValueError(f"{place} no weights named {model.name!r} are shipped; {did_you_mean(model.name, there)}")
    if model.kind == "folder" and not (source / "config.json").is_file():
        raise ValueError(f"{place} source {model.source!r} is a folder without a config.json, so it holds no model")
    if model.kind == "hub" and not is_hub_name(model.source):
        near = did_you_mean(model.source, EMBEDDED, otherwise="a model of the hub is named owner/model")
        raise ValueError(f"{place} source {model.source!r}: there is no such folder; {near}")

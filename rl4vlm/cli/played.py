"""The style and the settings of `rl4vlm evaluate` and `rl4vlm play` that follow from the policy on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rl4vlm.cli import options
from rl4vlm.config.load import api_settings, api_style
from rl4vlm.config.overrides import setting_words
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.types import Style
from rl4vlm.policies.registry import checkpoint_of
from rl4vlm.results.provenance import CHECKPOINT, KEPT, read_record, record_of
from rl4vlm.tasks.registry import get_task


def policy_label(policy: str) -> str:
    """A folder name for a policy: for one of a run, the name of the run, and that of a kept policy (`KEPT`)."""
    kind, colon, rest = policy.rpartition(":")
    path = options.named_folder(rest)
    if path.name == CHECKPOINT:
        name = path.resolve().parent.name
    elif path.parent.name == KEPT:
        name = f"{path.resolve().parents[1].name}-{path.name}"
    else:
        name = path.name
    return f"{kind}-{name}".replace(":", "-") if colon else name


def played_style(args: argparse.Namespace) -> Style:
    """The style that a policy plays in: that of `--style`, its entry in `api_models`, or its training; else `cot`."""
    if args.style is not None:
        return Style(args.style)
    if model := _configured_model(args):
        return Style(api_style(options.config_of(args.config), model))
    record = _training_record(args.policy)
    # A network without language writes actions alone.
    trained = {"style": Style.ACTION_ONLY} if record.get("stage") == "cnn" else record.get("settings", {})
    return Style(trained.get("style", Style.COT))


def played_settings(kind: type[Any], args: argparse.Namespace) -> list[str]:
    """Settings of the class `kind` as `key=value` words; a later word overrides an earlier one.

    The first words are the policy's own: for `api:MODEL` what its entry in the config sets, for a checkpoint of PPO or
    CNN+RL what it was trained with, such as the temperature, which is part of the policy. An evaluation adds the task's
    `held_out_env`, which the config of `api:MODEL` overrides. The words of `--set` follow.
    """
    held_out = get_task(args.task).held_out_env if kind is EvaluationSettings else {}
    games = setting_words({f"env.{name}": value for name, value in held_out.items()})
    model = _configured_model(args)
    if model is None:
        return [*_trained_with(args.policy, args.task), *games, *args.set]
    found = api_settings(options.config_of(args.config), model, args.task)
    known = {item.name for item in fields(kind)}
    return [*games, *setting_words({key: value for key, value in found.items() if key in known}), *args.set]


def _configured_model(args: argparse.Namespace) -> str | None:
    """The name in `api_models` of a policy `api:MODEL`; None for any other policy.

    None also if a word `api={...}` of `--set` describes the model, so that no config need be read.
    """
    described = any(word.startswith("api=") for word in args.set)
    return args.policy.removeprefix("api:") if args.policy.startswith("api:") and not described else None


def _trained_with(policy: str, task: str) -> list[str]:
    """The settings of play that a checkpoint of PPO or CNN+RL was trained with, as `key=value` words.

    On another task, not those of its environment and prompt, which that task may not have.
    """
    settings = _training_record(policy).get("settings", {})
    own = ("env", "prompt") if settings.get("task", task) == task else ()
    return setting_words({key: settings[key] for key in ("temperature", "max_new_tokens", *own) if key in settings})


def _training_record(policy: str) -> Mapping[str, Any]:
    """The run record beside a checkpoint of SFT, PPO or CNN+RL; empty for any other policy."""
    try:
        checkpoint = Path(checkpoint_of(policy)[1])
    except ValueError:  # a scripted policy, or none at all: that is said when it is made
        return {}
    file = record_of(checkpoint)
    record = read_record(file) if checkpoint.is_dir() and file.is_file() else {}
    return record if record.get("stage") in ("sft", "ppo", "cnn") else {}

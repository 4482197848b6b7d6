"""What `rl4vlm evaluate` and `rl4vlm play` take from the policy that their command line names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rl4vlm.config.load import api_settings, api_style, load_config
from rl4vlm.config.overrides import setting_words
from rl4vlm.core.types import Style
from rl4vlm.policies.registry import LEARNED, REMOTE
from rl4vlm.results.provenance import read_record, record_of


def policy_label(policy: str) -> str:
    """A folder name for a policy; a run's folder `checkpoint` is known by the run's name."""
    path = Path(policy)
    return (path.resolve().parent.name if path.name == "checkpoint" else path.name).replace(":", "-")


def played_style(args: argparse.Namespace) -> Style:
    """The style that a policy plays in: as asked for, as it was trained, or as the config's entry of its model says."""
    if args.style is not None:
        return Style(args.style)
    if model := _configured_model(args):
        return Style(api_style(load_config(args.config), model))
    record = _training_record(args.policy)
    # A network without language writes actions alone.
    trained = {"style": Style.ACTION_ONLY} if record.get("stage") == "cnn" else record.get("settings", {})
    return Style(trained.get("style", Style.COT))


def played_settings(kind: type[Any], args: argparse.Namespace) -> list[str]:
    """The `key=value` words of `--set`, after those of the config's entry for a policy `api:MODEL`.

    For a checkpoint that PPO made they come after those it was trained with: the temperature is part of a policy.
    """
    model = _configured_model(args)
    if model is None:
        return [*_trained_with(args.policy, args.task), *args.set]
    found = api_settings(load_config(args.config), model, args.task)
    known = {item.name for item in fields(kind)}
    return [*setting_words({key: value for key, value in found.items() if key in known}), *args.set]


def _configured_model(args: argparse.Namespace) -> str | None:
    """The name in `api_models` of a policy `api:MODEL`, None for any other policy.

    A word `api={...}` describes the model by itself; the config is not read then.
    """
    described = any(word.startswith("api=") for word in args.set)
    return args.policy.removeprefix("api:") if args.policy.startswith("api:") and not described else None


def _trained_with(policy: str, task: str) -> list[str]:
    """What the run record beside a checkpoint of PPO or CNN+RL says of how its policy plays, as `key=value` words.

    Options of its environment and texts of its prompt are of its own task: another one may not have them.
    """
    played = _training_record(policy).get("settings", {})
    own = ("env", "prompt") if played.get("task", task) == task else ()
    return setting_words({key: played[key] for key in ("temperature", "max_new_tokens", *own) if key in played})


def _training_record(policy: str) -> Mapping[str, Any]:
    """The run record beside a checkpoint of SFT, PPO or CNN+RL; empty for any other policy."""
    kind, _, rest = policy.partition(":")
    checkpoint = Path(rest if kind in (*LEARNED, *REMOTE) else policy)
    file = record_of(checkpoint)
    record = read_record(file) if checkpoint.is_dir() and file.is_file() else {}
    return record if record.get("stage") in ("sft", "ppo", "cnn") else {}

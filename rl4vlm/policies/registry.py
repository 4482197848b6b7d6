"""Policies by name. Modules are imported on demand, so that a scripted policy needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from rl4vlm.config.scripted import SCRIPTED
from rl4vlm.config.stages.backbone import is_hub_name
from rl4vlm.config.stages.cnn import CNN_CONFIG
from rl4vlm.config.stages.evaluation import VLM_OPTIONS
from rl4vlm.core.types import Policy, Style

LEARNED: dict[str, str] = {
    "vlm": "rl4vlm.policies.vlm:VLMPolicy",
    "cnn": "rl4vlm.policies.cnn:CNNPolicy",
}
"""Policies that are loaded from a checkpoint with `load(checkpoint, **options)`."""

MARKER_FILES = {"cnn": CNN_CONFIG}
"""The file that marks a checkpoint folder of each kind. A folder without any of them is a `vlm`."""

REMOTE: dict[str, str] = {
    "api": "rl4vlm.policies.api.policy:ApiPolicy",
    "served": "rl4vlm.policies.api.served:ServedPolicy",
}
"""Policies that send requests over HTTP, loaded with `load(model_or_checkpoint, api=settings, **options)`."""


def make_policy(name: str, style: Style, *, api: Mapping[str, Any] | None = None, **options: Any) -> Policy:
    """Make the policy that a command line names.

    Args:
        name: one of
            - the name of a scripted policy of `rl4vlm.config.scripted`;
            - a checkpoint folder, whose files show its kind, or a Hugging Face name (a `vlm`);
            - `kind:checkpoint`, with a kind in `LEARNED`;
            - `api:MODEL`, a model behind an endpoint;
            - `served:CHECKPOINT`, a checkpoint that is served with `transformers serve` meanwhile.
        style: how a scripted policy writes its replies.
        api: settings of a policy that sends requests over HTTP, the fields of `ApiSettings`.
        options: how a learned policy is loaded: `temperature`, `max_new_tokens`, `device`, `dtype`, and for a
            vision-language model also `VLM_OPTIONS`.

    Raises:
        ValueError: no such policy, no such folder, or an option of another kind of policy.
    """
    policy: Policy
    if name in SCRIPTED:
        policy = resolve_name(SCRIPTED[name].policy)(style)
    else:
        kind, checkpoint = checkpoint_of(name)
        for option in VLM_OPTIONS:
            if option in options and kind != "vlm":
                raise ValueError(f"{option} is for a vision-language model in this process, not for {name!r}")
        if kind in REMOTE:
            policy = resolve_name(REMOTE[kind]).load(checkpoint, api=api or {}, **options)
        else:
            policy = resolve_name(LEARNED[kind]).load(checkpoint, **options)
    return policy


def kind_of(name: str) -> str:
    """The key of the registry entry for a name: that of a scripted policy, or one of `LEARNED` or `REMOTE`."""
    return name if name in SCRIPTED else checkpoint_of(name)[0]


def checkpoint_of(name: str) -> tuple[str, str]:
    """Split a name into its kind (in `LEARNED` or `REMOTE`) and its checkpoint or model.

    Raises ValueError if it names neither.
    """
    kind, colon, rest = name.partition(":")
    if colon and (kind in LEARNED or kind in REMOTE):
        return kind, rest
    for kind, mark in MARKER_FILES.items():
        if Path(name, mark).is_file():
            return kind, name
    if Path(name).is_dir() or is_hub_name(name):
        return "vlm", name
    known = ", ".join(SCRIPTED)
    raise ValueError(f"no policy {name!r}: it is neither {known} nor an existing checkpoint folder")

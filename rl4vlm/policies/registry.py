"""Policies by name, loaded when asked for, so that a scripted policy needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rl4vlm.core.types import Policy, Style

SCRIPTED: dict[str, str] = {
    "random": "rl4vlm.policies.scripted:RandomPolicy",
    "solver": "rl4vlm.policies.scripted:SolverPolicy",
    "stand17": "rl4vlm.policies.stand17:StandOn17Policy",
}
"""Policies that need no more than their name."""

METHODS = {"stand17": "stand on 17"}
"""What tables call a scripted policy, where that is not its name."""

LEARNED: dict[str, str] = {
    "vlm": "rl4vlm.policies.vlm:VLMPolicy",
    "cnn": "rl4vlm.policies.cnn:CNNPolicy",
}
"""Policies that are loaded from a checkpoint, by `load(checkpoint, **options)`."""

MARKS = {"cnn": "cnn.json"}
"""The file that a checkpoint folder of this kind holds; a folder with none of them is a `vlm`."""

REMOTE: dict[str, str] = {
    "api": "rl4vlm.policies.api.policy:ApiPolicy",
    "served": "rl4vlm.policies.api.served:ServedPolicy",
}
"""Policies that ask over HTTP, by `load(name, api=settings, **options)`: a model of the config, a checkpoint."""


VLM_OPTIONS = ("quantize", "one_view")
"""Options that a vision-language model alone takes, and only where they are set."""


def make_policy(name: str, style: Style, *, api: Mapping[str, Any] | None = None, **options: Any) -> Policy:
    """The policy that a command line names.

    Args:
        name: one of `SCRIPTED`, a checkpoint folder (of the kind that its files say) or Hugging Face name (a `vlm`), or
            `kind:checkpoint` where kind is one of `LEARNED`; `api:MODEL` for a model behind an endpoint,
            `served:CHECKPOINT` for one that `transformers serve` serves meanwhile.
        style: how a scripted policy writes its replies.
        api: settings of a policy that asks over HTTP, as `rl4vlm.policies.api.settings.ApiSettings` has them.
        options: how a learned policy is loaded (`temperature`, `max_new_tokens`, `device`, `dtype`), a vision-language
            model also with `VLM_OPTIONS`.

    Raises:
        ValueError: no such policy, no such folder, or an option of another kind of policy.
    """
    policy: Policy
    if name in SCRIPTED:
        policy = _load(SCRIPTED[name])(style)
    else:
        kind, checkpoint = checkpoint_of(name)
        for option in VLM_OPTIONS:
            if option in options and kind != "vlm":
                raise ValueError(f"{option} is for a vision-language model that is loaded here, not for {name!r}")
        if kind in REMOTE:
            policy = _load(REMOTE[kind]).load(checkpoint, api=api or {}, **options)
        else:
            policy = _load(LEARNED[kind]).load(checkpoint, **options)
    return policy


def checkpoint_of(name: str) -> tuple[str, str]:
    """The kind (of `LEARNED` or `REMOTE`) and checkpoint or model that a name stands for; ValueError if neither."""
    kind, colon, rest = name.partition(":")
    if colon and (kind in LEARNED or kind in REMOTE):
        return kind, rest
    for kind, mark in MARKS.items():
        if Path(name, mark).is_file():
            return kind, name
    # A Hugging Face name is owner/model; anything else must be a folder that is there.
    if Path(name).is_dir() or (name.count("/") == 1 and not name.startswith((".", "/", "results/"))):
        return "vlm", name
    raise ValueError(f"no policy {name!r}: it is neither {', '.join(SCRIPTED)} nor a checkpoint folder that is there")


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)

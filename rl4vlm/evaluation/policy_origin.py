"""What made a policy, from its name as a user gives it and the record beside its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl4vlm.config.scripted import SCRIPTED
from rl4vlm.core.types import Style
from rl4vlm.policies.registry import checkpoint_of
from rl4vlm.results.origin import Origin, origin_of_run
from rl4vlm.results.provenance import read_record, record_of


def origin_of(policy: str, style: Style, task: str, api: Mapping[str, Any] | None = None) -> Origin:
    """What made the policy of this name, by the record beside its checkpoint if there is one.

    Args:
        policy: a name as for `make_policy`.
        style: how it writes its replies.
        task: what it plays. The method of a policy that was trained on another task says so.
        api: settings of a model behind an endpoint; `method` is its name in tables.
    """
    if policy in SCRIPTED:
        return Origin(SCRIPTED[policy].method, "scripted")
    kind, checkpoint = checkpoint_of(policy)
    if kind == "api":
        return Origin((api or {}).get("method") or checkpoint, "api")
    made_by = _origin_of_checkpoint(checkpoint, style, task)
    return made_by._replace(method=f"{made_by.method} over HTTP", kind="http") if kind == "served" else made_by


def _origin_of_checkpoint(checkpoint: str, style: Style, task: str) -> Origin:
    file = record_of(Path(checkpoint))
    record = read_record(file) if file.is_file() else {}
    name = Path(checkpoint).resolve().name
    # A folder may be called like a method of the tables, and is not that method.
    unknown = Origin(name if name.startswith("checkpoint") else f"checkpoint {name}", "checkpoint")
    found, settings = origin_of_run(record, style, file) or unknown, record.get("settings", {})
    if found.kind in ("sft", "ppo") and settings.get("style", style) != style:
        found = found._replace(method=f"{found.method} played {'with' if style is Style.COT else 'without'} thoughts")
    trained = settings.get("task", task)
    return found if trained == task else found._replace(method=f"{found.method} trained on {trained}")

"""What made a policy, from the `run.json` beside its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rl4vlm.core.types import Style


class Origin(NamedTuple):
    """What made a policy.

    Attributes:
        method: name of the method in tables.
        kind: scripted, sft, ppo, cnn, api (a model behind an endpoint), http (a checkpoint asked over HTTP), or
            checkpoint if it is unknown.
        thought_prob_coef: λ, of PPO runs only.
        seed: training seed, of SFT, PPO and CNN+RL runs only.
        variant: the variant of `variants` in the config; empty for the method itself.
    """

    method: str
    kind: str
    thought_prob_coef: float | None = None
    seed: int | None = None
    variant: str = ""


def origin_of_run(record: Mapping[str, Any], style: Style | str | None, where: Path) -> Origin | None:
    """What made a policy, by the `run.json` of its training; None for records of other stages.

    Args:
        record: content of the file.
        style: how the policy writes its replies, for a record that does not say how it was trained to.
        where: the file, for messages.

    Raises:
        ValueError: an older version wrote the record, so λ is unknown; or an entry is missing or wrong.
    """
    stage, settings = record.get("stage"), record.get("settings", {})
    variant = settings.get("variant", "")
    ending = "-noCoT" if settings.get("style", style) == Style.ACTION_ONLY else ""
    if stage == "sft":
        return Origin(f"LLaVA-sft{ending}", "sft", seed=record.get("seeds", {}).get("sft"), variant=variant)
    if stage == "ppo":
        if "thought_prob_coef" not in settings:
            raise ValueError(
                f"{where} has no settings.thought_prob_coef (λ), so an older version of rl4vlm wrote it: rerun this "
                "training"
            )
        weight = settings["thought_prob_coef"]
        if not isinstance(weight, int | float):
            raise ValueError(f"{where}: settings.thought_prob_coef is {weight!r}, not a number")
        return Origin(f"RL4VLM{ending}", "ppo", float(weight), _seed(record, stage, where), variant)
    if stage == "cnn":
        return Origin("CNN+RL", "cnn", seed=_seed(record, stage, where), variant=variant)
    return None


def _seed(record: Mapping[str, Any], stage: str, where: Path) -> int:
    seed = record.get("seeds", {}).get(stage)
    if not isinstance(seed, int):
        raise ValueError(f"{where}: seeds.{stage} is {seed!r}, not a number")
    return seed

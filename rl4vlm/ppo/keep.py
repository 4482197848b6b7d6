"""Policies that a PPO run keeps beside its last one, since the paper quotes the peak of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

from rl4vlm.config.stages.ppo_training import BEST, TrainingSettings, kept_after
from rl4vlm.core.files import atomic_directory
from rl4vlm.ppo.state import PPOState
from rl4vlm.results.provenance import KEPT
from rl4vlm.training.fsdp import full_weights_on_main


def keep_checkpoints(state: PPOState, settings: TrainingSettings, out: Path, validation: float | None) -> None:
    """Write the policy after an update if it is one to keep. All processes must call it.

    Args:
        state: the run after the update; the best rate so far is noted in it.
        settings: every how many updates a policy is kept, if at all.
        out: the draft of the run's folder.
        validation: the success rate on the validation episodes; None after an update without a validation.
    """
    if not settings.keep_checkpoints:
        return
    names = [name for name in [kept_after(state.update)] if name in settings.kept]
    # Of equally good policies the first: it was trained least.
    if validation is not None and (state.best is None or validation > state.best):
        state.best = validation
        names.append(BEST)
    if not names:
        return
    # All processes must enter: under FSDP each sends its shards to the main one.
    with full_weights_on_main(state.policy_optimizer.model, state.policy_optimizer.accelerator):
        for name in names if state.processes.is_main else ():
            with atomic_directory(_beside(out) / name) as folder:
                state.policy_optimizer.policy.save(folder)


def forget_kept(out: Path) -> None:
    """Remove what a run kept: when a new one begins, and after the states of a complete one.

    Not before: a run that is killed in between continues from its last state and puts the policies into a new draft.
    """
    shutil.rmtree(_beside(out), ignore_errors=True)


def add_kept(out: Path) -> None:
    """Put the kept policies into the draft of the run's folder."""
    if _beside(out).is_dir():
        # Not the hidden draft of a policy that a kill left.
        shutil.copytree(_beside(out), out / KEPT, ignore=shutil.ignore_patterns(".*"))


def _beside(out: Path) -> Path:
    # Not in the draft, which is emptied when a killed run continues.
    return out.with_name(f"{out.name}.kept")

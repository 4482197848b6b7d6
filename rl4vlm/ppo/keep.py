"""The policies that a PPO run keeps beside its last one. The paper reports the peak of a run, not its end."""

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
    # Among equally good policies, keep the first: it was trained least.
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
    """Remove the policies that a run kept. Call it when a new run begins, and at the end of a complete run.

    At the end, the states of the run must have been removed before: a run that is killed in between continues from its
    last state, and needs the policies for a new draft.
    """
    shutil.rmtree(_beside(out), ignore_errors=True)


def add_kept(out: Path) -> None:
    """Copy the kept policies into the draft of the run's folder, as `checkpoints/`."""
    if _beside(out).is_dir():
        # Leave out the hidden draft of a policy, which a killed process may have left.
        shutil.copytree(_beside(out), out / KEPT, ignore=shutil.ignore_patterns(".*"))


def _beside(out: Path) -> Path:
    # Beside the draft and not in it, because the draft is emptied when a killed run continues.
    return out.with_name(f"{out.name}.kept")

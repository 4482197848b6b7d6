"""PPO of the CNN+RL baseline: the same training loop, with a small network trained from scratch.

An action is one draw among the legal actions, not a sequence of tokens, so there are no thoughts to weigh.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from accelerate.utils import gather_object, set_seed

from rl4vlm.config.stages.cnn import CNNSettings
from rl4vlm.core.types import Style
from rl4vlm.interaction.play import Slot
from rl4vlm.models.cnn import CNNActorCritic
from rl4vlm.policies.cnn import CNNPolicy
from rl4vlm.ppo.initial import initial_state, make_slots
from rl4vlm.ppo.loop import PPO_OUTPUTS, run_to_end
from rl4vlm.training.accelerator import accelerator_on
from rl4vlm.training.distributed import local_env_indices
from rl4vlm.training.resume import run_folder
from rl4vlm.training.store import StateFolder


def run(*, task: str, out: Path, seed: int, settings: CNNSettings, resume_dir: StateFolder | None = None) -> None:
    """Train a new network; writes `checkpoint/`, `metrics.jsonl`, `timing.jsonl` and `run.json` to `out`.

    Args:
        task: the task to train on.
        out: the run's folder.
        seed: of the whole run: environments, sampling, shuffling and the network's weights.
        settings: the hyperparameters.
        resume_dir: where the run saves its state, and from where a killed run resumes. None saves nothing.
    """
    started = time.monotonic()
    set_seed(seed)
    with run_folder(out, "cnn", PPO_OUTPUTS, resume_dir) as folder:
        accelerator = accelerator_on(settings.device, settings.process_timeout)
        indices = local_env_indices(settings.num_envs, accelerator)
        # The slots come first: the network has one output per legal action that they show.
        slots = make_slots(task, Style.ACTION_ONLY, seed, settings, indices=indices)
        policy = CNNPolicy(build_model(slots, settings))
        # The network writes no thoughts, so their weight makes no difference.
        state = initial_state(policy, slots, accelerator, settings, seed, thought_prob_coef=0.0)
        run_to_end(
            state,
            settings,
            {"task": task},
            stage="cnn",
            seed=seed,
            inputs={},
            draft=folder,
            out=out,
            resume_dir=resume_dir,
            started=started,
        )


def build_model(slots: Sequence[Slot], settings: CNNSettings) -> CNNActorCritic:
    """A new network for the task that the slots play. All processes must call it.

    If the legal actions change during an episode (ALFWorld), the network reads the action words. Else it has one output
    per action.
    """
    # The slots of all processes together, so that every process builds the same network.
    views = gather_object([slot.request.view for slot in slots])
    if slots[0].task.changing_actions:
        fields = sorted({name for view in views for name in view.fields})
        return CNNActorCritic(
            None, reads_text=False, sizes=settings.sizes, temperature=settings.temperature, fields=fields
        )
    return CNNActorCritic(
        # Without duplicates, in the order of first appearance.
        list(dict.fromkeys(action for view in views for action in view.actions)),
        reads_text=any(view.fields for view in views),
        sizes=settings.sizes,
        temperature=settings.temperature,
    )

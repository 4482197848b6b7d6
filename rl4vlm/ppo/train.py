"""PPO fine-tuning of a whole vision-language model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed

from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.core.output import check_apart
from rl4vlm.core.types import Style
from rl4vlm.interaction.play import Slot
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.dropout import add_dropout
from rl4vlm.models.vllm_engine import check_vllm_on
from rl4vlm.policies.vlm import VLMPolicy, vllm_for
from rl4vlm.ppo.initial import initial_state, make_slots
from rl4vlm.ppo.loop import PPO_OUTPUTS, run_to_end
from rl4vlm.results.provenance import CHECKPOINT, inputs_now
from rl4vlm.training.accelerator import accelerator_on
from rl4vlm.training.distributed import local_env_indices
from rl4vlm.training.resume import run_folder
from rl4vlm.training.store import StateFolder


def run(
    *,
    task: str,
    style: Style,
    init: str | Path,
    out: Path,
    seed: int,
    settings: PPOSettings,
    resume_dir: StateFolder | None = None,
) -> None:
    """Fine-tune a checkpoint; writes `checkpoint/`, `metrics.jsonl`, `timing.jsonl` and `run.json` to `out`.

    Args:
        task: the task to train on.
        style: how replies are written.
        init: the checkpoint folder or Hugging Face name to start from.
        out: the run's folder.
        seed: of the whole run: environments, sampling, shuffling and the new value head.
        settings: the hyperparameters.
        resume_dir: where the run saves its state, and from where a killed run resumes. None saves nothing.

    Raises:
        ValueError: `out` holds something else or contains `init`; the checkpoint, the game or a setting cannot be used;
            there are fewer environments than processes; or the training diverged.
        Interrupted: a signal stopped the run, and its state is saved.
    """
    started = time.monotonic()
    # For new weights (value head, LoRA adapters). Environments, sampling and shuffling have streams of their own.
    set_seed(seed)
    check_apart(init, out / CHECKPOINT)
    with run_folder(out, "ppo", PPO_OUTPUTS, resume_dir) as folder:
        accelerator = accelerator_on(settings.device, settings.process_timeout)
        if settings.engine == "vllm":
            check_engine(accelerator)
        # Raises if there are too few environments. So call it before the model is loaded, which takes minutes.
        indices = local_env_indices(settings.num_envs, accelerator)
        inputs = inputs_now({"init": Path(init)})
        model = ActorCritic.load(
            init,
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            value_sizes=settings.value_sizes,
            gradient_checkpointing=settings.gradient_checkpointing,
            detach_value=settings.detach_value,
            kv_cache=settings.kv_cache,
            **settings.loading,
        )
        if settings.defects.dropout:
            add_dropout(model.model, settings.defects.dropout)
            model.share_prompts = False  # each sample has a dropout mask of its own, for the prompt as well
        reference = _reference(init, settings, accelerator.device) if settings.kl_coef else None
        slots = make_slots(task, style, seed, settings, settings.prompt, indices)
        state = initial_state(
            VLMPolicy(
                model,
                reference,
                scored_prompt=first_prompt(slots) if settings.defects.first_prompt else None,
                dropped_tokens=settings.defects.dropped_tokens,
                engine=vllm_for(model.to(accelerator.device), settings.engine_cache_gb)
                if settings.engine == "vllm"
                else None,
            ),
            slots,
            accelerator,
            settings,
            seed,
            thought_prob_coef=settings.thought_prob_coef,
            kl_coef=settings.kl_coef,
            schedule_steps=settings.defects.schedule_steps,
        )
        run_to_end(
            state,
            settings,
            {"task": task, "style": style},
            stage="ppo",
            seed=seed,
            inputs=inputs,
            draft=folder,
            out=out,
            resume_dir=resume_dir,
            started=started,
        )


def first_prompt(slots: Sequence[Slot]) -> str:
    """The prompt of the run's first environment, which the main process plays. Every process must call this."""
    prompts: list[str] = broadcast_object_list([slots[0].request.prompt])
    return prompts[0]


def check_engine(accelerator: Accelerator) -> None:
    """Raise ValueError if vLLM is not installed, or if there are several processes or another GPU than the first."""
    if accelerator.num_processes > 1:
        raise ValueError("engine vllm works in one process: set resources.ppo.processes to 1")
    check_vllm_on(accelerator.device)


def _reference(init: str | Path, settings: PPOSettings, device: torch.device) -> ActorCritic:
    """The checkpoint that the run starts from, frozen."""
    model = ActorCritic.load(
        init,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        value_sizes=(1,),  # the values of a reference are not used
        device=device,
        **settings.loading,
    )
    return model.eval().requires_grad_(False)

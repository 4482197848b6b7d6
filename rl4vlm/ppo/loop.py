"""The training loop: the paper's algorithm 1, top to bottom, for any policy that can be trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.core.env_folders import env_folders
from rl4vlm.core.files import JsonLines
from rl4vlm.core.progress import progress
from rl4vlm.core.types import Episode, Step
from rl4vlm.ppo.keep import add_kept, forget_kept, keep_checkpoints
from rl4vlm.ppo.policy_optimizer import ready_to_play
from rl4vlm.ppo.rollout import Rollout, compute_advantages, concat_envs, rollout_step
from rl4vlm.ppo.state import PPOState
from rl4vlm.ppo.success import validate
from rl4vlm.ppo.update import optimizer_steps
from rl4vlm.results.provenance import CHECKPOINT, KEPT, METRICS, TIMING, InputFile, inputs_now, write_run_record
from rl4vlm.training.fsdp import full_weights_on_main
from rl4vlm.training.optim import check_finite
from rl4vlm.training.resume import resumable
from rl4vlm.training.store import StateFolder
from rl4vlm.training.tracking import Track, metric_trackers

PPO_OUTPUTS = (CHECKPOINT, KEPT, METRICS, TIMING)
"""What a run writes beside its `run.json`."""


def train(
    state: PPOState,
    settings: TrainingSettings,
    out: Path,
    title: str,
    on_step: Callable[[PPOState], None] = lambda state: None,
    *,
    trackers: Path | None = None,
) -> None:
    """Train from where `state` stands to the end of the run; writes `metrics.jsonl` and `timing.jsonl` to `out`.

    With several processes, each plays its own environments and trains on its share of every mini-batch. The main
    process writes the files.

    Args:
        state: the run, new or resumed; it is changed in place.
        settings: the hyperparameters.
        out: the draft of the run's folder.
        title: names the run in the progress bar and in errors.
        on_step: called after every batched environment step, every optimizer step and every update. `state` is complete
            at these moments, so it may be saved.
        trackers: folder of the trackers that the settings ask for; `out` unless given.

    Raises:
        ValueError: losses or weights are not finite after an optimizer step. They are not saved.
    """
    policy_optimizer, slots, processes = state.policy_optimizer, state.slots, state.processes
    policy, accelerator = policy_optimizer.policy, policy_optimizer.accelerator
    if state.update == 1 and processes.is_main:
        forget_kept(out)
    # A resumed run appends: the resume manager has restored the lines of earlier updates.
    with (
        processes.named(),
        JsonLines(processes.file(out / METRICS), append=state.update > 1) as metrics,
        JsonLines(processes.file(out / TIMING), append=state.update > 1) as timing,
        metric_trackers(accelerator, settings.loggers, trackers or out, settings) as track,
        processes.shown() as screen,
        progress(settings.updates * settings.num_steps, title, unit="step", stream=screen) as bar,
    ):
        # A resumed run starts the bar where it was left, in the middle of a rollout or after it.
        played_steps = len(state.steps) if state.rollout is None else settings.steps_per_env
        bar.update((state.update - 1) * settings.num_steps + played_steps * settings.num_envs)
        while state.update <= state.updates:
            rollout_started = time.monotonic()
            # 1. Play one rollout with the current policy. A run resumed during the optimisation has it already.
            if state.rollout is None:
                with ready_to_play(policy_optimizer):
                    while len(state.steps) < settings.steps_per_env:
                        state.steps.append(rollout_step(slots, policy, settings))
                        bar.update(settings.num_envs)
                        on_step(state)
                    # The rollout ends in the middle of episodes: the critic estimates the rewards still to come.
                    bootstrap_value = policy.values([slot.request for slot in slots])
                # 2. Compute advantages. Every process gets the whole rollout, since each mini-batch is drawn from it.
                parts, bootstrap_values = zip(*processes.gather((state.steps, bootstrap_value)), strict=True)
                steps = concat_envs(parts)
                state.rollout = compute_advantages(steps, np.concatenate(bootstrap_values), settings)
                state.recent.add(steps)
                # Otherwise this rollout would stay in memory while the next one is played.
                del parts, steps
            update_started = time.monotonic()
            # 3. Improve policy and critic on the rollout: some epochs of mini-batch steps.
            for done in optimizer_steps(
                policy_optimizer,
                state.rollout.samples,
                state.progress,
                settings,
                state.shuffle,
                values_only=state.update <= settings.value_warmup,
            ):
                # Before on_step, which may save the state: a diverged run must not overwrite a good state.
                check_finite(done.losses, policy.model, accelerator, f"{title}, {state.position}")
                on_step(state)
            update_s = time.monotonic() - update_started
            # 4. Validate if it is time, log, and lower the learning rate.
            line = {
                "update": state.update,
                "env_steps": state.update * settings.num_steps,
                **summarise(state.rollout, state.recent.window),
                **_validation(state, settings, track),
                **state.progress.means(processes),
                "learning_rate": state.schedule.get_last_lr()[0],
            }
            keep_checkpoints(state, settings, out, line["validation_success_rate"])
            metrics.write(line)
            # Times differ from run to run. In a file of their own, they leave metrics.jsonl equal for equal seeds.
            rollout_s = update_started - rollout_started
            timing.write({"update": state.update, "rollout_s": rollout_s, "update_s": update_s})
            track(line, line["env_steps"])
            bar.describe(success=line["success_rate"])
            state.next_update()
            on_step(state)


def run_to_end(
    state: PPOState,
    settings: TrainingSettings,
    played: Mapping[str, Any],
    *,
    stage: str,
    seed: int,
    inputs: Mapping[str, InputFile],
    draft: Path,
    out: Path,
    resume_dir: StateFolder | None,
    started: float,
) -> None:
    """Train to the end, from the saved state if there is one; write `checkpoint/`, then `run.json`.

    Args:
        state: the run before its first step.
        settings: the hyperparameters.
        played: the task and, for a language model, the style of replies; they are part of the run's key.
        stage: `ppo` or `cnn`.
        seed: the training seed.
        inputs: by name, what the run starts from: its initial checkpoint, if any.
        draft: folder to write, which becomes `out` later. Its `run.json` means that it is complete.
        out: the run's folder, into which the trackers write while it runs.
        resume_dir: where the state is saved; None saves nothing.
        started: `time.monotonic()` when this process began the run.
    """
    run_key = {"stage": stage, **played, "seed": seed}
    with resumable(
        state,
        resume_dir,
        out=draft,
        settings=settings,
        inputs={**inputs, **inputs_now(env_folders(settings.env))},
        started=started,
        **run_key,
    ) as manager:
        train(state, settings, draft, " ".join([stage.upper(), *played.values()]), manager.on_step, trackers=out)
        # Inside the block: the saved state is removed only once the checkpoint is written.
        end(state, draft)
        if state.processes.is_main:
            add_kept(draft)
            write_run_record(
                draft,
                stage=stage,
                settings={**played, **vars(settings)},
                seeds={stage: seed},
                inputs=inputs,
                seconds=manager.seconds,
            )
    if state.processes.is_main:
        forget_kept(draft)


def end(state: PPOState, draft: Path) -> None:
    """Close the environments and write `checkpoint/`. All processes must call it."""
    for slot in state.slots:
        slot.env.close()
    # All processes must enter: under FSDP each sends its shards to the main one.
    with full_weights_on_main(state.policy_optimizer.model, state.policy_optimizer.accelerator):
        if state.processes.is_main:
            (draft / CHECKPOINT).mkdir()
            state.policy_optimizer.policy.save(draft / CHECKPOINT)


def _validation(state: PPOState, settings: TrainingSettings, track: Track) -> dict[str, Any]:
    """Success on the validation episodes, as metrics; None after an update without a validation.

    It keeps nothing in `state`: a run that is killed meanwhile resumes before it and plays the same episodes again.
    """
    won: list[bool] = []
    if settings.validates_after(state.update):
        processes, policy = state.processes, state.policy_optimizer.policy

        def show(number: int, steps: Sequence[Step]) -> None:
            if number < settings.logged_episodes:
                track.episode(f"validation_episode_{number + 1}", steps, state.update * settings.num_steps)

        # Only the main process has trackers, so it shows episodes of its own share.
        shown = show if processes.is_main and settings.loggers and settings.logged_episodes else None
        with ready_to_play(state.policy_optimizer):
            own = validate(policy.player, state.slots, settings, processes.rank, processes.count, shown)
        won = [success for part in processes.gather(own) for success in part]
    return {"validation_success_rate": sum(won) / len(won) if won else None, "validation_episodes": len(won)}


def summarise(rollout: Rollout, recent: Sequence[Episode]) -> dict[str, Any]:
    """The metrics of play.

    Args:
        rollout: the one just played.
        recent: the last episodes, over which success rate and return are averaged. A single rollout has few episodes,
            and short ones end first.

    Returns:
        Numbers by name; None for a number that does not exist, such as for the thoughts of a network without language.
    """

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if len(values) else None

    return {
        "episodes": len(rollout.episodes),
        "success_rate": mean([episode.success for episode in recent]),
        "window": len(recent),
        "mean_return": mean([episode.total_reward for episode in recent]),
        "fallback_rate": rollout.fallback_rate,
        "logprob_thoughts": rollout.numbers.get("logprob_thoughts"),
        "logprob_action": rollout.numbers.get("logprob_action"),
        "reply_tokens": rollout.numbers.get("tokens"),
    }

"""Estimates the GPU memory, disk and hours of a config's jobs, by stage, from model shapes and measured rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from rl4vlm.config.base_models import EMBEDDED, base_model
from rl4vlm.config.fields import Positive, settings
from rl4vlm.config.load import evaluation_sets, evaluation_settings, stage_settings
from rl4vlm.config.run_names import DATA_NAME
from rl4vlm.config.runs import cnn_runs, evaluation_runs, kept_policies, ppo_runs, sft_runs
from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.backbone import BackboneSettings
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.envs.alfworld.env import MAX_STEPS as ALFWORLD_STEPS
from rl4vlm.models.memory import FLOAT32, SHAPES, Memory, estimate
from rl4vlm.tasks.blackjack import LIMIT
from rl4vlm.tasks.ezpoints import EZPoints
from rl4vlm.tasks.number_line import MAX_STEPS as NUMBER_LINE_STEPS
from rl4vlm.tasks.points24 import Points24
from rl4vlm.training.store import KEEP

NOTE = """Sizes in GB (10^9 bytes). GPU memory is per job, for {tokens:,} tokens of prompt and reply. While a training
runs, up to {states} copies of its state are on disk. Formulas give seconds; divide by 3,600 for hours. They hold rates,
in samples per second of your GPU: no rate of a GPU was measured by this project. `make gpu-check` measures all but
`sft`, and its page says which option each is for. An evaluation takes episodes x steps per episode / played. PPO's
validations are counted with the longest episodes that the game allows. The needs of `sft_data` and `cnn` are not
estimated: the table shows the RAM and the hours that `resources` of the config grants each job."""
STAGES = ("sft_data", "sft", "ppo", "cnn", "evaluation", "evaluation of kept policies")
"""The stages in the table, in order. What the others need is in `resources` of the config."""
LONGEST_EPISODES = {
    "NumberLine": NUMBER_LINE_STEPS,
    # The formula may grow to one item more than `max_items`; the next step truncates the episode.
    "EZPoints": EZPoints.max_items + 2,
    "Points24": Points24.max_items + 2,
    # Two aces count at least 2, and each ace that is drawn 1 more, until the hand is over the limit.
    "Blackjack": LIMIT + 1 - 2,
    "ALFWorld": ALFWORLD_STEPS,
}
"""The most steps of an episode by task, for this package's own tasks. They stand here because an attribute of the tasks
would change the code digest of every stage, which would make all results stale."""


@settings
class Rates:
    """Samples per second on a GPU; None where unknown. `make gpu-check` measures all but `sft`."""

    played: Positive | None = None
    """Environment steps, all environments together."""
    scored: Positive | None = None
    """Replies that are scored again before an update."""
    trained: Positive | None = None
    """Samples of one epoch of an update."""
    sft: Positive | None = None
    """Samples of supervised fine-tuning."""


@dataclass(frozen=True)
class StageNeeds:
    """What one stage's jobs of one task need.

    Attributes:
        stage: one of `STAGES`.
        jobs: number of jobs.
        memory: GB of GPU memory per job, in words; for a stage without a model of known shape, its RAM.
        running: bytes of disk per job while it runs; None if not estimated.
        kept: bytes of disk per job afterwards; None if not estimated.
        hours: hours per job; a formula for its seconds, or the granted runtime, where they are unknown.
    """

    stage: str
    jobs: int
    memory: str
    running: int | None
    kept: int | None
    hours: str


def plan(config: Mapping[str, Any], model: str | None, rates: Rates) -> str:
    """A Markdown table of what the jobs of each stage need, and the disk that all checkpoints take.

    Args:
        config: a checked config.
        model: known shape, folder or hub name to take the shapes from; None takes those of each task's base model.
        rates: of the GPU, for the hours.

    Raises:
        ValueError: the shapes of a model cannot be found.
    """
    found: dict[StageNeeds, list[str]] = {}
    bases: dict[str, int] = {}
    for task in config["tasks"]:
        base = base_model(config, task)
        if model is None and base.kind in EMBEDDED:
            raise ValueError(f"{task} starts from an embedded model: name its folder or a known shape with --model")
        source = model or _shape_of(base.source)
        for needs in _task_needs(config, task, source, rates):
            found.setdefault(needs, []).append(task)
        bases[source] = _estimate(source, MemorySettings(dtype="bfloat16", lora_rank=0, train=False)).weights
    lines = [
        "| stage | tasks | jobs | GPU memory per job | disk while one runs | disk of all at the end | hours per job |",
        "|---|---|---|---|---|---|---|",
    ]
    for needs, tasks in sorted(found.items(), key=lambda entry: STAGES.index(entry[0].stage)):
        jobs = needs.jobs * len(tasks)
        kept = None if needs.kept is None else needs.kept * jobs
        cells = [needs.stage, ", ".join(tasks), str(jobs), needs.memory, _gb(needs.running), _gb(kept), needs.hours]
        lines.append(f"| {' | '.join(cells)} |")
    at_end = sum((needs.kept or 0) * needs.jobs * len(tasks) for needs, tasks in found.items()) + sum(bases.values())
    total = f"With the base model, the checkpoints of language models take {at_end / 1e9:.0f} GB at the end."
    return "\n".join([*lines, "", total, NOTE.format(states=KEEP + 1, tokens=MemorySettings().tokens)])


def _gb(size: int | None) -> str:
    return "not estimated" if size is None else f"{size / 1e9:.1f}"


def _shape_of(source: str) -> str:
    """The known shape whose name is a part of `source` (`llava-hf/llava-v1.6-mistral-7b-hf`); else `source` itself."""
    return next((name for name in SHAPES if name in source), source)


def _task_needs(config: Mapping[str, Any], task: str, source: str, rates: Rates) -> list[StageNeeds]:
    sft = build_settings(SFTSettings, stage_settings(config, "sft", task))
    ppo = build_settings(PPOSettings, stage_settings(config, "ppo", task))
    played = build_settings(EvaluationSettings, evaluation_settings(config, task))
    samples = sft.epochs * stage_settings(config, "sft_data", task)["samples"]
    # A checkpoint plays all sets of games in one job.
    jobs = Counter(run.kind for run in evaluation_runs(config) if run.task == task and not run.games)
    warm_starts = [run for run in sft_runs(config) if run.task == task]
    kept = sum(run.task == task for run, _ in kept_policies(config))
    in_sft = _memory(source, sft, micro_batch_size=sft.micro_batch_size)
    in_ppo = _memory(
        source,
        ppo,
        micro_batch_size=ppo.micro_batch_size or ppo.minibatch_size,
        num_envs=ppo.num_envs,
        reply=ppo.max_new_tokens,
        value_sizes=ppo.value_sizes,
    )
    # The largest policy that is evaluated: PPO's, with its adapters if it has any.
    sizes = {"num_envs": played.num_envs, **_adapters(ppo if ppo.lora else sft)}
    playing = _estimate(source, MemorySettings(dtype=played.dtype, quantize=played.quantize, train=False, **sizes))
    policies = (1 + len(ppo.kept)) * _checkpoint(in_ppo, ppo)
    states = KEEP + 1
    rows = [
        StageNeeds(
            stage="sft",
            jobs=len(warm_starts),
            memory=_gb(in_sft.training),
            running=states * in_sft.state,
            kept=_checkpoint(in_sft, sft),
            hours=f"{samples:,} / sft" if rates.sft is None else f"{samples / rates.sft / 3600:.1f}",
        ),
        StageNeeds(
            stage="ppo",
            jobs=sum(run.task == task for run in ppo_runs(config)),
            # A static KV cache stays in memory during updates.
            memory=_gb(
                max(in_ppo.training + in_ppo.cache * (ppo.kv_cache != "dynamic"), in_ppo.playing)
                + (in_ppo.weights if ppo.kl_coef else 0)
            ),
            running=states * in_ppo.state,
            kept=policies,
            hours=_ppo_hours(ppo, LONGEST_EPISODES.get(task), rates),
        ),
        StageNeeds(
            stage="evaluation",
            jobs=jobs["sft"] + jobs["ppo"],
            memory=_gb(playing.playing),
            running=0,
            kept=0,
            hours=_episodes(played, len(evaluation_sets(config, task)) or 1),
        ),
    ]
    if kept:
        rows.append(
            StageNeeds(
                stage="evaluation of kept policies",
                jobs=kept,
                memory=_gb(playing.playing),
                running=0,
                kept=0,
                # They play the first set alone.
                hours=_episodes(played, 1),
            )
        )
    # All seeds share the demonstrations of a style. Given ones are not made.
    given = config["sft_data"]["given"]
    made = {run.style for run in warm_starts if DATA_NAME.format(task=task, style=run.style) not in given}
    others = {"sft_data": len(made), "cnn": sum(run.task == task for run in cnn_runs(config))}
    return rows + [_granted(config, stage, count) for stage, count in others.items() if count]


def _granted(config: Mapping[str, Any], stage: str, jobs: int) -> StageNeeds:
    """A row of what the config grants the jobs of a stage, for stages whose needs were not estimated."""
    granted = config["resources"][stage]
    gpu = "GPU memory not estimated" if granted["gpu"] else "no GPU"
    return StageNeeds(
        stage=stage,
        jobs=jobs,
        memory=f"{gpu}; {_gb(granted['mem_mb'] * 10**6)} of RAM",
        running=None,
        kept=None,
        hours=f"unknown; {granted['runtime'] / 60:.1f} granted",
    )


def _episodes(played: EvaluationSettings, sets: int) -> str:
    """How many episodes one evaluation plays, in words. How many games a set has, only its folder says."""
    most = "up to " if played.each_game_once else ""
    return f"{most}{f'{sets} x ' if sets > 1 else ''}{played.episodes:,} episodes"


def _ppo_hours(ppo: PPOSettings, longest: int | None, rates: Rates) -> str:
    """Hours of a PPO run with its validations, or a formula for its seconds.

    Args:
        ppo: settings of the run.
        longest: the most steps of an episode; None if unknown.
        rates: of the GPU.
    """
    again = ppo.scores_again(below_float32=ppo.dtype == "bfloat16" or ppo.quantize is not None)
    episodes = ppo.validation_episodes * sum(map(ppo.validates_after, range(1, ppo.updates + 1)))
    if rates.played is None or rates.trained is None or (again and rates.scored is None):
        run = f"{ppo.total_env_steps:,} x (1/played + {'1/scored + ' if again else ''}{ppo.ppo_epochs}/trained)"
        if not episodes:
            return run
        steps = f"{episodes:,} episodes x steps per episode" if longest is None else f"up to {episodes * longest:,}"
        return f"{run} + {steps}/played"
    rescoring = 1 / rates.scored if again and rates.scored else 0.0
    hours = run_hours(ppo.total_env_steps, ppo.ppo_epochs, 1 / rates.played, rescoring, 1 / rates.trained)
    if not episodes:
        return f"{hours:.1f}"
    if longest is None:
        return f"{hours:.1f} + {episodes:,} episodes"
    return f"up to {hours + episodes * longest / rates.played / 3600:.1f}"


def run_hours(steps: int, epochs: int, play: float, again: float, learn: float) -> float:
    """Hours of a PPO run.

    Args:
        steps: environment steps of the run.
        epochs: per update.
        play: seconds per sample to play it.
        again: seconds per sample to score it again before the update, or 0.
        learn: seconds per sample to learn from it in one epoch.
    """
    return steps * (play + again + epochs * learn) / 3600


def _checkpoint(memory: Memory, loaded: BackboneSettings) -> int:
    """Bytes of a checkpoint: all weights or, if there are adapters, only these and the value head, in float32."""
    return memory.weights if loaded.lora is None else memory.trainable * FLOAT32


def _memory(source: str, loaded: BackboneSettings, **sizes: Any) -> Memory:
    same = {name: getattr(loaded, name) for name in ("dtype", "quantize", "gradient_checkpointing")}
    return _estimate(source, MemorySettings(**same, **_adapters(loaded), **sizes))


def _adapters(loaded: BackboneSettings) -> dict[str, Any]:
    """The settings of `MemorySettings` about adapters."""
    if loaded.lora is None:
        return {"lora_rank": 0}
    return {"lora_rank": loaded.lora.rank, "targets": loaded.lora.targets}


@cache
def _estimate(source: str, asked: MemorySettings) -> Memory:
    # Cached: most tasks have the same model and sizes, and building the shapes of a large model takes seconds.
    return estimate(source, asked)

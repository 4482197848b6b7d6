"""Held-out evaluation: episodes from seeds that no training ever sees, counted with an interval.

The paper has no such protocol: it reports the peak of a rolling mean over training episodes.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.files import RECORD, JsonLines, atomic_write_text, jsonable
from rl4vlm.core.progress import progress
from rl4vlm.core.types import Episode, GameEnv, PlayStopped, Policy, SkippingEnv, Step, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.evaluation.perception import PREFIX, PerceptionExaminer
from rl4vlm.interaction.play import play_episodes
from rl4vlm.interaction.prompt import override_parts
from rl4vlm.policies.registry import METHODS, SCRIPTED, checkpoint_of, make_policy
from rl4vlm.results.intervals import wilson
from rl4vlm.results.provenance import write_run_record
from rl4vlm.tasks.registry import get_task

EPISODES, SUMMARY = "episodes.jsonl", "summary.json"
PROTOCOL = "held_out"


@dataclass(frozen=True)
class Origin:
    """What made a policy: `kind` is scripted, sft, ppo, cnn, checkpoint (unknown), api (a model behind an endpoint) or
    http (a checkpoint asked over HTTP); lambda only for what PPO fine-tuned, seed for what PPO trained."""

    method: str
    kind: str
    lam: float | None = None
    seed: int | None = None


@runtime_checkable
class Metered(Protocol):
    """A policy that counts what its replies were and cost, and knows whether it can afford so many more."""

    def totals(self) -> Mapping[str, Any]: ...

    def affords(self, replies: int) -> bool: ...


@runtime_checkable
class Closable(Protocol):
    """A policy that holds something open: connections, a server."""

    def close(self) -> None: ...


class Allowance:
    """Whether a policy affords another episode: as many running ones as long as the longest so far."""

    def __init__(self, player: Policy, num_envs: int) -> None:
        self.player = player
        self.num_envs = num_envs
        self.longest = 0
        self.stopped: str | None = None

    def covers_after(self, episode: Episode) -> bool:
        """Whether another may begin after `episode`."""
        self.longest = max(self.longest, episode.length)
        if isinstance(self.player, Metered) and not self.player.affords(self.num_envs * self.longest):
            self.stopped = "what was left of the spending cap went to the episodes that were running"
        return self.stopped is None


def run(
    *,
    policy: str | Policy,
    task: str,
    style: Style,
    out: Path,
    settings: EvaluationSettings,
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Play the held-out episodes of `task`; writes `episodes.jsonl`, `run.json` and, last, `summary.json` to `out`.

    Where the policy cannot afford all episodes, the result is `partial`: no more begin when what is left would just
    pay for those that run. Should it not (PlayStopped), the episodes before the first unfinished one count; finished
    ones after it are the short ones of their batch, and would tilt the result.

    Args:
        policy: a name as `make_policy` takes it, or a policy.
        task: a task's name.
        style: how replies are written.
        out: folder to write to.
        settings: see there.
        origin: what made the policy; found out from its name and the record beside it unless given.

    Returns:
        The summary.

    Raises:
        ValueError: no such policy or task, or the policy stopped play before an episode was finished.
    """
    with ExitStack() as opened:
        player = make_policy(policy, style, **settings.loading) if isinstance(policy, str) else policy
        if isinstance(policy, str) and isinstance(player, Closable):
            opened.callback(player.close)
        return _run(policy, player, task, style, out, settings, origin)


def _run(
    policy: str | Policy,
    player: Policy,
    task: str,
    style: Style,
    out: Path,
    settings: EvaluationSettings,
    origin: Origin | None,
) -> dict[str, Any]:
    started = time.monotonic()
    name = policy if isinstance(policy, str) else type(policy).__name__
    made_by = origin or (
        origin_of(policy, style, settings.api) if isinstance(policy, str) else Origin(name, "checkpoint")
    )
    game = get_task(task)
    # A reply without thoughts says nothing of the picture.
    patterns = game.perception_patterns if style is Style.COT else {}
    allowance = Allowance(player, settings.num_envs)
    envs: list[GameEnv] = []

    def new_env() -> GameEnv:
        envs.append(make_env(task, **settings.env))
        return envs[-1]

    played = play_episodes(
        new_env,
        game,
        PerceptionExaminer(player, patterns),
        style,
        override_parts(game.prompt, settings.prompt),
        settings.seeds,
        settings.num_envs,
        allowance.covers_after,
    )
    for file in (SUMMARY, EPISODES):
        (out / file).unlink(missing_ok=True)
    lines, stopped = _record(played, out / EPISODES, f"evaluate {name} {task}", settings.episodes)
    summary = {
        "method": made_by.method,
        "kind": made_by.kind,
        "lambda": made_by.lam,
        "seed": made_by.seed,
        "policy": name,
        "task": task,
        "style": style,
        "protocol": PROTOCOL,
        **({"games": settings.games} if settings.games else {}),
        **({"overall": game.overall} if game.overall else {}),
        **summarise(lines, game.groups),
        "partial": len(lines) < settings.episodes,
        "stopped": stopped or allowance.stopped,
        **_skipped(envs),
        **({"api": player.totals()} if isinstance(player, Metered) else {}),
    }
    write_run_record(
        out,
        stage="evaluation",
        settings={"policy": name, "task": task, "style": style, **vars(settings)},
        seeds={"episodes": [settings.seeds[0], settings.seeds[-1]]},
        inputs={} if not isinstance(policy, str) or policy in SCRIPTED else {"policy": Path(checkpoint_of(policy)[1])},
        seconds=time.monotonic() - started,
    )
    atomic_write_text(out / SUMMARY, json.dumps(jsonable(summary), indent=2, ensure_ascii=False) + "\n")
    return summary


def _skipped(envs: Sequence[GameEnv]) -> dict[str, Any]:
    """`skipped_games`, what the environments left out as bad: how many games, and their files; nothing where none."""
    files = sorted({file for env in envs if isinstance(env, SkippingEnv) for file in env.skipped})
    return {"skipped_games": {"count": len(files), "files": files}} if files else {}


def _record(
    played: Iterator[tuple[Episode, list[Step]]], file: Path, title: str, total: int
) -> tuple[list[dict[str, Any]], str | None]:
    """Write a line an episode while they are played; the lines, and why the policy stopped play if it did.

    The file is begun with the first line: a policy that cannot play the task at all leaves nothing behind.
    """
    lines: list[dict[str, Any]] = []
    stopped, written = None, None
    with ExitStack() as opened, progress(total, title, unit="episode") as bar:
        try:
            for number, (episode, steps) in enumerate(played):
                written = written or opened.enter_context(JsonLines(file))
                lines.append(episode_line(number, episode, steps))
                written.write(lines[-1])
                bar.update(1)
                bar.describe(success=sum(line["success"] for line in lines) / len(lines))
        except PlayStopped as reason:
            stopped = str(reason)
    if not lines:
        raise ValueError(f"not one episode was finished: {stopped}")
    return lines, stopped


def episode_line(number: int, episode: Episode, steps: Sequence[Step]) -> dict[str, Any]:
    """The record of one episode; together with its seed enough to replay it."""
    known_of_game = {"group": episode.group, "data_source": episode.data_source}
    perceptions: dict[str, list[int]] = {}
    for step in steps:
        for name, mark in step.reply.numbers.items():
            if name.startswith(PREFIX):
                tally = perceptions.setdefault(name.removeprefix(PREFIX), [0, 0])
                tally[0] += int(mark)
                tally[1] += 1
    return {
        "episode": number,
        "seed": episode.seed,
        "success": episode.success,
        "return": episode.total_reward,
        "length": episode.length,
        "fallbacks": episode.fallbacks,
        **{name: value for name, value in known_of_game.items() if value is not None},
        "perception": perceptions,
        "steps": [step_entry(step) for step in steps],
    }


def step_entry(step: Step) -> dict[str, Any]:
    """The record of one step, with the numbers that the policy gave."""
    return {
        "action": step.action,
        "reward": step.reward,
        "outcome": step.parsed.outcome,
        "fallback": step.fallback,
        "reply": step.reply.text,
        **step.reply.numbers,
    }


def summarise(lines: Sequence[Mapping[str, Any]], groups: Sequence[str] = ()) -> dict[str, Any]:
    """Totals over episode lines; rates and their Wilson 95 % bounds in percent, log-probs as means over steps.

    A task with `groups` also gets `groups`, the rates of each (None where no episode was of it), so that the overall
    rate is their average weighted by frequency; and `data_sources`, where the games came from.
    """
    steps = [step for line in lines for step in line["steps"]]
    correct: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for line in lines:
        for name, (right, of) in line["perception"].items():
            correct[name] += right
            asked[name] += of
    sources = sorted({line["data_source"] for line in lines if "data_source" in line})
    return {
        **_rates(lines),
        "mean_return": sum(line["return"] for line in lines) / len(lines),
        "mean_length": len(steps) / len(lines),
        "fallback_rate": sum(step["fallback"] for step in steps) / len(steps),
        "outcomes": dict(sorted(Counter(str(step["outcome"]) for step in steps).items())),
        "perception_accuracy": {name: correct[name] / asked[name] for name in asked},
        "logprob_thoughts": _mean_of("logprob_thoughts", steps),
        "logprob_action": _mean_of("logprob_action", steps),
        "reply_tokens": _mean_of("tokens", steps),
        "seeds": [line["seed"] for line in lines],
        **_by_group(lines, groups),
        **({"data_sources": sources} if sources else {}),
    }


def _by_group(lines: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> dict[str, Any]:
    """The rates of each group; nothing for a task without groups."""
    found = {name: _rates([line for line in lines if line["group"] == name]) for name in groups}
    return {"groups": found} if groups else {}


def _rates(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many episodes were won, and the rate with its bounds; no rate of no episode."""
    successes = sum(line["success"] for line in lines)
    rates: tuple[float | None, ...] = (None, None, None)
    if lines:
        rates = tuple(100 * share for share in (successes / len(lines), *wilson(successes, len(lines))))
    return {
        "episodes": len(lines),
        "successes": successes,
        **dict(zip(("success_rate", "ci_low", "ci_high"), rates, strict=True)),
    }


def _mean_of(name: str, steps: Sequence[Mapping[str, Any]]) -> float | None:
    values = [step[name] for step in steps if name in step]
    return sum(values) / len(values) if values else None


def origin_of(policy: str, style: Style, api: Mapping[str, Any] | None = None) -> Origin:
    """What made the policy of this name: from the record beside its checkpoint, where there is one.

    `api` holds the settings of a model behind an endpoint, its `method` among them.
    """
    if policy in SCRIPTED:
        return Origin(METHODS.get(policy, policy), "scripted")
    kind, checkpoint = checkpoint_of(policy)
    if kind == "api":
        return Origin((api or {}).get("method") or checkpoint, "api")
    made_by = _origin_of_checkpoint(checkpoint, style)
    return replace(made_by, method=f"{made_by.method} over HTTP", kind="http") if kind == "served" else made_by


def _origin_of_checkpoint(checkpoint: str, style: Style) -> Origin:
    record = Path(checkpoint).parent / RECORD
    made = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    ending = "" if style is Style.COT else "-noCoT"
    if made.get("stage") == "sft":
        return Origin(f"LLaVA-sft{ending}", "sft")
    if made.get("stage") == "ppo":
        return Origin(f"RL4VLM{ending}", "ppo", made["settings"]["thought_prob_coef"], made["seeds"]["ppo"])
    if made.get("stage") == "cnn":
        return Origin("CNN+RL", "cnn", seed=made["seeds"]["cnn"])
    return Origin(Path(checkpoint).name, "checkpoint")

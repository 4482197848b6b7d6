"""Held-out evaluation: success rate with a 95 % interval, over episodes with seeds that no training uses.

The paper has no such protocol. It reports the peak of a rolling mean over training episodes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rl4vlm.config.scripted import SCRIPTED
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.env_folders import env_folders
from rl4vlm.core.files import JsonLines, atomic_write_text, jsonable
from rl4vlm.core.output import stage_output
from rl4vlm.core.progress import progress as progress_bar
from rl4vlm.core.types import Episode, GameEnv, PlayStopped, Policy, SkippingEnv, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.evaluation.perception import PerceptionExaminer
from rl4vlm.evaluation.policy_origin import origin_of
from rl4vlm.evaluation.progress import SetProgress
from rl4vlm.evaluation.summary import episode_line, step_entry, summarise
from rl4vlm.interaction.episodes import EpisodePlay
from rl4vlm.interaction.prompt import override_parts
from rl4vlm.policies.registry import checkpoint_of, make_policy
from rl4vlm.results.origin import Origin
from rl4vlm.results.provenance import (
    EPISODES,
    HELD_OUT,
    SUMMARY,
    TRAINING_GAMES,
    InputFile,
    inputs_now,
    write_run_record,
)
from rl4vlm.tasks.base import Task
from rl4vlm.tasks.registry import get_task
from rl4vlm.training.increments import increments
from rl4vlm.training.store import StateFolder, relevant


@runtime_checkable
class Metered(Protocol):
    """A policy that counts its replies and their cost, and knows whether its budget covers more of them."""

    def totals(self) -> Mapping[str, Any]: ...

    def affords(self, replies: int) -> bool: ...

    def check_replies(self) -> None: ...


@runtime_checkable
class FiniteEnv(Protocol):
    """An environment with a fixed set of games: as many consecutive seeds play each of them once."""

    @property
    def game_count(self) -> int: ...


@runtime_checkable
class Closable(Protocol):
    """A policy that must be closed, because it holds connections or runs a server."""

    def close(self) -> None: ...


class Allowance:
    """Stops new episodes before the budget of a policy is spent.

    A new episode begins only if the budget covers `num_envs` more episodes, each as long as the longest so far.
    """

    def __init__(self, player: Policy, num_envs: int) -> None:
        self.player = player
        self.num_envs = num_envs
        self.longest = 0
        self.stopped: str | None = None

    def covers_after(self, episode: Episode) -> bool:
        """Whether another episode may begin after `episode`."""
        self.longest = max(self.longest, episode.length)
        if isinstance(self.player, Metered) and not self.player.affords(self.num_envs * self.longest):
            self.stopped = "the rest of the spending cap was kept for the episodes that were running"
        return self.stopped is None


def run(
    *,
    policy: str | Policy,
    task: str,
    style: Style,
    out: Path,
    settings: EvaluationSettings,
    origin: Origin | None = None,
    resume_dir: StateFolder | None = None,
) -> dict[str, Any]:
    """Play the held-out episodes of `task`, and write `episodes.jsonl`, `summary.json` and `run.json` to `out`.

    If the budget of the policy does not cover all episodes, the result is `partial`: no episode begins that might not
    be finished (`Allowance`). If the policy still stops play in the middle (PlayStopped), only the episodes before the
    first unfinished one count. Finished ones after it are the short ones of their batch and would bias the result.

    With `each_game_once`, no game is played twice: a game that is skipped as bad has no episode, and is not replaced by
    another. All totals and intervals are of the other games, the summary names it in `skipped_games`, and the result is
    not `partial` for it.

    Args:
        policy: a policy, or its name as for `make_policy`.
        task: name of the task.
        style: how replies are written.
        out: folder to write.
        settings: how it is evaluated.
        origin: what made the policy; by default, taken from its name and the record beside it.
        resume_dir: where the state is saved; a killed evaluation continues from there. None saves no state.

    Returns:
        The summary.

    Raises:
        ValueError: there is no such policy or task, or the policy stopped play before an episode was finished.
    """
    (summary,) = run_sets(
        policy=policy, task=task, style=style, sets={out: settings}, origin=origin, resume_dir=resume_dir
    )
    return summary


def run_sets(
    *,
    policy: str | Policy,
    task: str,
    style: Style,
    sets: Mapping[Path, EvaluationSettings],
    origin: Origin | None = None,
    resume_dir: StateFolder | None = None,
) -> list[dict[str, Any]]:
    """Evaluate a policy on several sets of games, as `run` does on one. The policy is loaded once.

    A state holds the finished episodes, and the seed and actions of each running one. An evaluation that continues from
    it has the same batches as one without interruption, and each episode has its own random streams. So the episodes
    are the same, bit for bit on a CPU with the same number of threads.

    Args:
        policy: as in `run`.
        task: as in `run`.
        style: as in `run`.
        sets: the settings of each set's evaluation, by the folder to write. The folders are written at the end; an
            error before that leaves all of them as they were.
        origin: as in `run`.
        resume_dir: as in `run`; one state for all sets.

    Returns:
        The summaries, in the order of `sets`.

    Raises:
        ValueError: as in `run`; or the sets' settings load the policy differently; or there are several sets or a
            `resume_dir` and the policy is a model over HTTP.
    """
    loading = next(iter(sets.values())).loading
    if any(settings.loading != loading for settings in sets.values()):
        raise ValueError(f"the sets of games of {task} differ in how the policy is loaded: evaluate each by itself")

    inputs = inputs_now(_inputs(policy))

    def key(states: StateFolder) -> dict[str, Any]:
        folders = {name: path for settings in sets.values() for name, path in env_folders(settings.env).items()}
        chosen = {str(number): relevant(settings) for number, settings in enumerate(sets.values(), 1)}
        read = inputs | inputs_now(folders)
        return states.key(read, stage="evaluation", policy=str(policy), task=task, style=style, settings=chosen)

    with ExitStack() as opened:
        # Entered first, so it exits last: the state is removed only when all results are in place.
        kept = opened.enter_context(increments(resume_dir, key, min(one.save_minutes for one in sets.values())))
        player = make_policy(policy, style, **loading) if isinstance(policy, str) else policy
        if isinstance(policy, str) and isinstance(player, Closable):
            opened.callback(player.close)
        if len(sets) > 1 and isinstance(player, Metered):
            raise ValueError("what a model over HTTP costs is counted by set of games: evaluate each by itself")
        if resume_dir and isinstance(player, Metered):
            raise ValueError("a model over HTTP continues from its cache of replies: leave out --state")
        drafts = [opened.enter_context(stage_output(out, ["evaluation"], [EPISODES, SUMMARY])) for out in sets]
        progress = [SetProgress() for _ in sets]
        for _, saved in kept.load():
            for one, part in zip(progress, saved["sets"], strict=False):  # sets that had not begun are not in it
                one.add(part)

        def on_turn(position: str) -> None:
            kept.on_step(position, lambda: ({"sets": [one.new() for one in progress if one.play]}, []))

        return [
            _run(policy, player, task, style, draft, settings, origin, inputs, one, on_turn)
            for draft, settings, one in zip(drafts, sets.values(), progress, strict=True)
        ]


def _run(
    policy: str | Policy,
    player: Policy,
    task: str,
    style: Style,
    folder: Path,
    settings: EvaluationSettings,
    origin: Origin | None,
    inputs: Mapping[str, InputFile],
    progress: SetProgress,
    on_turn: Callable[[str], None],
) -> dict[str, Any]:
    """Play the rest of one set of games, and write its files to `folder`. Calls `on_turn` where it can be resumed."""
    name = policy if isinstance(policy, str) else type(policy).__name__
    made_by = origin or (
        origin_of(policy, style, task, settings.api) if isinstance(policy, str) else Origin(name, "checkpoint")
    )
    game = get_task(task)
    # A reply without thoughts does not say what it reads.
    patterns = game.perception_patterns if style is Style.COT else {}
    allowance = Allowance(player, settings.num_envs)

    def new_env() -> GameEnv:
        env = make_env(task, **settings.env)
        if settings.each_game_once and isinstance(env, SkippingEnv):
            env.replaces_skipped = False  # the other game would be played twice
        progress.envs.append(env)
        return env

    seeds = settings.seeds
    if settings.each_game_once:
        seeds = seeds[: _game_count(task, settings)]
    parts = override_parts(game.prompt, settings.prompt)
    progress.play = EpisodePlay(new_env, game, style, parts, seeds, settings.num_envs, keep=step_entry)
    if progress.rest:
        progress.play.load_state(progress.rest)
    turns = progress.play.turns(PerceptionExaminer(player, patterns), allowance.covers_after)
    stopped = _record(turns, progress, folder / EPISODES, f"evaluate {name} {task}", len(seeds), on_turn)
    lines = progress.lines
    if isinstance(player, Metered):
        player.check_replies()
    summary = {
        "method": made_by.method,
        "kind": made_by.kind,
        "lambda": made_by.thought_prob_coef,
        "seed": made_by.seed,
        **({"variant": made_by.variant} if made_by.variant else {}),
        "policy": name,
        "task": task,
        "style": style,
        "protocol": _protocol(game, settings.env),
        **({"games": settings.games} if settings.games else {}),
        **({"overall": game.overall} if game.overall else {}),
        **summarise(lines, game.groups),
        "partial": not progress.play.complete,
        "stopped": stopped or allowance.stopped,
        **_skipped(progress.skipped),
        **({"api": player.totals()} if isinstance(player, Metered) else {}),
    }
    atomic_write_text(folder / SUMMARY, json.dumps(jsonable(summary), indent=2, ensure_ascii=False) + "\n")
    write_run_record(
        folder,
        stage="evaluation",
        settings={"policy": name, "task": task, "style": style, **vars(settings)},
        seeds={"episodes": [seeds[0], seeds[-1]]},
        inputs=inputs,
        seconds=progress.seconds,
    )
    return summary


def _protocol(game: Task, env: Mapping[str, Any]) -> str:
    """`HELD_OUT`, or `TRAINING_GAMES` if the environment's options are those of training, also by default."""
    trained = game.training_env
    plays_them = all(env.get(name, value) == value for name, value in trained.items())
    return TRAINING_GAMES if trained and plays_them else HELD_OUT


def _game_count(task: str, settings: EvaluationSettings) -> int:
    env = make_env(task, **settings.env)
    try:
        if not isinstance(env, FiniteEnv):
            raise ValueError(f"each_game_once: {task} has no fixed set of games")
        return env.game_count
    finally:
        env.close()


def _inputs(policy: str | Policy) -> dict[str, Path]:
    """The checkpoint of a policy that was loaded from one."""
    if not isinstance(policy, str) or policy in SCRIPTED:
        return {}
    return {"policy": Path(checkpoint_of(policy)[1])}


def _skipped(files: list[str]) -> dict[str, Any]:
    """The entry `skipped_games`: number and files of the games that were skipped as bad; empty if none."""
    return {"skipped_games": {"count": len(files), "files": files}} if files else {}


def _record(
    turns: Iterable[list[tuple[Episode, list[dict[str, Any]]]]],
    progress: SetProgress,
    file: Path,
    title: str,
    total: int,
    on_turn: Callable[[str], None],
) -> str | None:
    """Write the lines that `progress` has, then one per newly finished episode, which `progress` gets too.

    Returns:
        Why the policy stopped play, if it did.
    """
    lines, stopped = progress.lines, None
    before, started = progress.seconds, time.monotonic()
    with JsonLines(file) as written, progress_bar(total, title, unit="episode") as bar:
        for line in lines:
            written.write(line)
        bar.update(len(lines))
        won = sum(line["success"] for line in lines)
        try:
            for finished in turns:
                for episode, steps in finished:
                    lines.append(episode_line(len(lines), episode, steps))
                    written.write(lines[-1])
                    bar.update(1)
                    won += lines[-1]["success"]
                    bar.describe(success=won / len(lines))
                progress.seconds = before + time.monotonic() - started
                on_turn(f"episode {len(lines)} of {total}")
        except PlayStopped as reason:
            stopped = str(reason)
            progress.seconds = before + time.monotonic() - started
    if not lines:
        raise ValueError(f"not one episode was finished: {stopped or 'no game could be started'}")
    return stopped

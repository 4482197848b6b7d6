"""One episode at a terminal: what the player sees, is asked, says and earns, step by step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from rl4vlm.config.stages.evaluation import PlaySettings
from rl4vlm.core.types import Episode, PlayStopped, Policy, Reply, Request, Step, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.last_frame import LastFrame
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.interaction.prompt import override_parts
from rl4vlm.play.gif import film
from rl4vlm.play.human import HumanPolicy, Quit
from rl4vlm.play.terminal import Screen, half_blocks, printable
from rl4vlm.policies.registry import make_policy
from rl4vlm.results.game_label import games_played
from rl4vlm.tasks.registry import get_task

HUMAN = "human"


def play(
    *,
    task: str,
    policy: str | Policy,
    style: Style,
    seed: int,
    settings: PlaySettings,
    gif: Path | None = None,
    screen: Screen | None = None,
    out: TextIO | None = None,
    ask: Callable[[str], str] = input,
) -> Episode | None:
    """Play the episode that `seed` gives and show it on `out`.

    Args:
        task: a task's name.
        policy: `human`, a name as `make_policy` takes it, or a policy.
        style: how replies are written.
        seed: decides the start and everything that is random; an evaluation's episode of this seed is the same one.
        settings: see there.
        gif: where to save the episode as an animated GIF.
        screen: the terminal that pictures are drawn for; without one, they are told in words.
        out: where to write; standard output unless given.
        ask: how a person is asked, like `input`.

    Returns:
        The episode's count, or None when the person quit or the policy stopped play.

    Raises:
        ValueError: no such task or policy, or a setting that does not fit.
    """
    game = get_task(task)
    table = _Table(out or sys.stdout, screen)
    with ExitStack() as opened:
        player = _player(policy, style, settings, ask)
        if isinstance(policy, str) and hasattr(player, "close"):
            # One that asks over HTTP holds connections open, or a server.
            opened.callback(player.close)
        env = opened.enter_context(closing(LastFrame(make_env(task, **settings.env))))
        slot = Slot(env, game, style, override_parts(game.prompt, settings.prompt), seed, endless=False)
        source = game.data_source(env.info)
        if source is not None:
            table.write(f"Played on {games_played([source])}.")
        try:
            episode = _play(slot, _Shown(player, table))
        except (Quit, PlayStopped) as stop:
            episode = None
            table.write("\n".join(map(printable, map(str, stop.args))))
        table.end(episode, env)
    if gif is not None:
        gif.parent.mkdir(parents=True, exist_ok=True)
        gif.write_bytes(film(table.frames))
        table.write(f"Saved to {gif}.")
    return episode


def _player(policy: str | Policy, style: Style, settings: PlaySettings, ask: Callable[[str], str]) -> Policy:
    if not isinstance(policy, str):
        return policy
    return HumanPolicy(style, ask) if policy == HUMAN else make_policy(policy, style, **settings.loading)


def _play(slot: Slot, shown: _Shown) -> Episode:
    while True:
        (step,) = advance([slot], shown)
        shown.table.answered(step)
        if step.episode is not None:
            return step.episode


@dataclass
class _Shown:
    """A policy that shows each request before `player` answers it."""

    player: Policy
    table: _Table

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        for request in requests:
            self.table.asked(request)
        return self.player.act(requests)


@dataclass
class _Table:
    """What is shown of an episode, and kept of it as `frames`: pictures with captions."""

    out: TextIO
    screen: Screen | None
    frames: list[tuple[np.ndarray, str]] = field(default_factory=list)
    steps: int = 0
    prompt: list[str] = field(default_factory=list)

    def write(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def asked(self, request: Request) -> None:
        self.steps += 1
        self.write(f"\n── Step {self.steps} ──")
        # Most of a prompt never changes within an episode.
        lines = printable(request.prompt).split("\n")
        for line in lines:
            if line not in self.prompt:
                self.write(line)
        self.prompt = lines
        self.show(request.image, dict(request.env.perception()))

    def answered(self, step: Step) -> None:
        by_chance = f" (drawn at random: {step.parsed.outcome.replace('_', ' ')})" if step.fallback else ""
        self.write(f"Reply: {printable(step.reply.text)}")
        self.write(f"Action: {step.action}{by_chance}   Reward: {step.reward:+g}")
        self.frames.append((step.request.image, f"{step.action}{' (random)' if step.fallback else ''}"))

    def end(self, episode: Episode | None, env: LastFrame) -> None:
        assert env.image is not None
        if episode is None:
            self.frames.append((env.image, "stopped"))
            self.write("Stopped.")
            return
        outcome = "won" if episode.success else "lost"
        self.write("\n── The end ──")
        self.show(env.image, dict(env.perception()))
        fallbacks = f", {episode.fallbacks} of them fallbacks" if episode.fallbacks else ""
        self.write(f"{outcome.capitalize()} after {episode.length} steps{fallbacks}; return {episode.total_reward:+g}.")
        self.frames.append((env.image, f"{outcome}, return {episode.total_reward:+g}"))

    def show(self, image: np.ndarray, perception: dict[str, str]) -> None:
        if self.screen is not None:
            self.write(half_blocks(image, self.screen))
        else:
            told = ", ".join(f"{name} {value}" for name, value in perception.items())
            self.write(f"[picture: {told or 'see the prompt'}]")

"""Plays one episode and shows each step: image, prompt, reply, action and reward."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from rl4vlm.config.stages.evaluation import PlaySettings
from rl4vlm.core.files import atomic_write_bytes
from rl4vlm.core.printable import printable
from rl4vlm.core.types import Episode, PlayStopped, Policy, Reply, Request, Step, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.last_frame import LastFrame
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.interaction.prompt import override_parts
from rl4vlm.play.gif import encode_gif
from rl4vlm.play.human import HumanPolicy, Quit, ask
from rl4vlm.play.terminal import Screen, half_blocks
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
    ask: Callable[[str], str] = ask,
) -> Episode | None:
    """Play one episode and show it.

    Args:
        task: name of a task.
        policy: `human`, a name that `make_policy` knows, or a policy.
        style: how replies are written.
        seed: seed of the episode; an evaluation's episode with this seed is the same.
        settings: the environment's options, the prompt and how to load the policy.
        gif: file to save the episode to, as an animated GIF.
        screen: the terminal to draw images for; without one, images are described in words.
        out: where to write; standard output if not given.
        ask: asks a person a question, like `input`.

    Returns:
        The finished episode, or None if the person quit or the policy stopped.

    Raises:
        ValueError: the task or policy is unknown, a setting is invalid, or `gif` is no name of a GIF or another file.
    """
    if gif is not None and gif.suffix.lower() != ".gif":
        raise ValueError(f"{gif}: the episode is saved as a GIF; name a file that ends in .gif")
    # A pipe must not be opened here: it would wait for its other end.
    if gif is not None and gif.exists() and not (gif.is_file() and gif.read_bytes().startswith(b"GIF8")):
        raise ValueError(f"{gif} exists and is not a GIF: name another file")
    game = get_task(task)
    display = _Display(out or sys.stdout, screen)
    with ExitStack() as opened:
        player = _player(policy, style, settings, ask)
        if isinstance(policy, str) and hasattr(player, "close"):
            # A policy that asks over HTTP holds connections open, and may run a server.
            opened.callback(player.close)
        env = opened.enter_context(closing(LastFrame(make_env(task, **settings.env))))
        slot = Slot(env, game, style, override_parts(game.prompt, settings.prompt), seed, endless=False)
        source = game.data_source(env.info)
        if source is not None:
            display.write(f"Played on {games_played([source])}.")
        try:
            episode = _play(slot, _ShowRequests(player, display))
        except (Quit, PlayStopped) as stop:
            episode = None
            display.write("\n".join(map(printable, map(str, stop.args))))
        display.end(episode, env)
    if gif is not None:
        atomic_write_bytes(gif, encode_gif(display.frames))
        display.write(f"Saved to {gif}.")
    return episode


def _player(policy: str | Policy, style: Style, settings: PlaySettings, ask: Callable[[str], str]) -> Policy:
    if not isinstance(policy, str):
        return policy
    return HumanPolicy(style, ask) if policy == HUMAN else make_policy(policy, style, **settings.loading)


def _play(slot: Slot, player: _ShowRequests) -> Episode:
    while True:
        (step,) = advance([slot], player)
        player.display.answered(step)
        if step.episode is not None:
            return step.episode


@dataclass
class _ShowRequests:
    """Shows each request before `player` answers it."""

    player: Policy
    display: _Display

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        for request in requests:
            self.display.asked(request)
        return self.player.act(requests)


@dataclass
class _Display:
    """Writes the episode to `out` and collects `frames` (image and caption) for the GIF."""

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
        # Show only lines that the last prompt did not have: most of a prompt stays the same within an episode.
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
            described = ", ".join(f"{name} {value}" for name, value in perception.items())
            self.write(f"[image: {described or 'see the prompt'}]")

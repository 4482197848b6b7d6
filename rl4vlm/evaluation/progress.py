"""The progress of an evaluation, and what its state saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rl4vlm.core.types import GameEnv, SkippingEnv
from rl4vlm.interaction.episodes import EpisodePlay


@dataclass
class SetProgress:
    """Progress of the evaluation on one set of games.

    Attributes:
        lines: the records of the finished episodes, in order (`episode_line`).
        seconds: wall time so far, including earlier processes of the same run.
        play: plays the episodes; None before it has begun.
        rest: what was left to play when the loaded state was saved; None without a state.
        envs: the environments of `play`.
    """

    lines: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    play: EpisodePlay[dict[str, Any]] | None = None
    rest: Mapping[str, Any] | None = None
    envs: list[GameEnv] = field(default_factory=list)
    _skipped_before: tuple[str, ...] = ()
    _saved: int = 0

    @property
    def skipped(self) -> list[str]:
        """Files of the games that were skipped as bad, sorted."""
        now = {file for env in self.envs if isinstance(env, SkippingEnv) for file in env.skipped}
        return sorted({*self._skipped_before, *now})

    def new(self) -> dict[str, Any]:
        """What to save: the lines since the last call, and the current values of everything else."""
        assert self.play is not None
        lines, self._saved = self.lines[self._saved :], len(self.lines)
        return {"lines": lines, "seconds": self.seconds, "skipped": self.skipped, "rest": self.play.state()}

    def add(self, saved: Mapping[str, Any]) -> None:
        """Load what `new` returned. Call this with all states of the run, in order."""
        self.lines += saved["lines"]
        self._saved = len(self.lines)
        self.seconds, self._skipped_before, self.rest = saved["seconds"], tuple(saved["skipped"]), saved["rest"]

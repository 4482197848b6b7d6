"""What an evaluation writes: a line per episode, and totals over the lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rl4vlm.core.types import Episode, Step
from rl4vlm.evaluation.perception import MARKS
from rl4vlm.results.intervals import wilson


def episode_line(number: int, episode: Episode, steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of one episode, from which it can be replayed.

    Args:
        number: of the episode in this evaluation, from 0.
        episode: its totals.
        steps: the entries of its steps (`step_entry`), in order.
    """
    known_of_game = {"group": episode.group, "data_source": episode.data_source}
    perceptions: dict[str, dict[str, int]] = {}
    for step in steps:
        for name, mark in step.get("perception", {}).items():
            perceptions.setdefault(name, dict.fromkeys(MARKS, 0))[mark] += 1
    return {
        "episode": number,
        "seed": episode.seed,
        "success": episode.success,
        "return": episode.total_reward,
        "length": episode.length,
        "fallbacks": episode.fallbacks,
        **{name: value for name, value in known_of_game.items() if value is not None},
        "perception": perceptions,
        "steps": [*steps],
    }


def step_entry(step: Step) -> dict[str, Any]:
    """The record of one step, with what the policy measured (`Reply.numbers`)."""
    return {
        "action": step.action,
        "reward": step.reward,
        "outcome": step.parsed.outcome,
        "fallback": step.fallback,
        "reply": step.reply.text,
        **step.reply.numbers,
        **({"perception": dict(step.reply.perception)} if step.reply.perception else {}),
    }


def summarise(lines: Sequence[Mapping[str, Any]], groups: Sequence[str] = ()) -> dict[str, Any]:
    """Totals over the lines of episodes: rates with Wilson 95 % bounds in percent, log-probabilities as step means.

    Args:
        lines: at least one, as `episode_line` makes them.
        groups: the kinds of episodes that the task reports separately. The summary has the rates of each, None for a
            kind without episodes.
    """
    steps = [step for line in lines for step in line["steps"]]
    perceptions: dict[str, Counter[str]] = {}
    for line in lines:
        for name, counts in line["perception"].items():
            perceptions.setdefault(name, Counter()).update(counts)
    sources = sorted({line["data_source"] for line in lines if "data_source" in line})
    return {
        **_rates(lines),
        "mean_return": sum(line["return"] for line in lines) / len(lines),
        "mean_length": len(steps) / len(lines),
        "fallback_rate": sum(step["fallback"] for step in steps) / len(steps),
        "outcomes": dict(sorted(Counter(str(step["outcome"]) for step in steps).items())),
        "perception": {name: dict(counts) for name, counts in perceptions.items()},
        "perception_accuracy": {name: _accuracy(counts) for name, counts in perceptions.items()},
        "logprob_thoughts": _mean_of("logprob_thoughts", steps),
        "logprob_action": _mean_of("logprob_action", steps),
        "reply_tokens": _mean_of("tokens", steps),
        "seeds": [line["seed"] for line in lines],
        **_by_group(lines, groups),
        **({"data_sources": sources} if sources else {}),
    }


def _accuracy(counts: Mapping[str, int]) -> float | None:
    """The share of right values among those stated, None if none is."""
    stated = counts["right"] + counts["wrong"]
    return counts["right"] / stated if stated else None


def _by_group(lines: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> dict[str, Any]:
    """The rates by kind of episode; empty for a task without kinds."""
    found = {name: _rates([line for line in lines if line.get("group") == name]) for name in groups}
    return {"groups": found} if groups else {}


def _rates(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Number of episodes and successes, and the rate with its bounds, which are None without episodes."""
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

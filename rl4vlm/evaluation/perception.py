"""Whether a player read the picture right: what its reply says of each field against what the picture shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rl4vlm.core.types import Policy, Reply, Request

PREFIX = "read "
"""Begins the names of reading results among a reply's numbers: 1 read right, 0 wrong or not found."""


@dataclass(frozen=True)
class PerceptionExaminer:
    """A policy that answers as `policy` does, and notes among each reply's numbers which fields it read right.

    It looks at the environment when the question is put, since a moment later the environment has moved on. The
    reply's `replay_item` is dropped: an evaluation trains nothing, and these items are large.
    """

    policy: Policy
    patterns: Mapping[str, re.Pattern[str]]

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        shown = [dict(request.env.perception()) for request in requests]
        return [
            replace(reply, numbers={**reply.numbers, **marks(reply.text, truth, self.patterns)}, replay_item=None)
            for reply, truth in zip(self.policy.act(requests), shown, strict=True)
        ]


def marks(text: str, truth: Mapping[str, str], patterns: Mapping[str, re.Pattern[str]]) -> dict[str, float]:
    """Marks of one reply, named `PREFIX` + field, for every field that the picture shows and the task asks for."""
    return {
        f"{PREFIX}{field}": float(same_perception(said_of(pattern, text), truth[field]))
        for field, pattern in patterns.items()
        if field in truth
    }


def said_of(pattern: re.Pattern[str], text: str) -> str | None:
    """What a reply says of a field: the pattern's first group, or None."""
    match = pattern.search(text)
    return match[1] if match else None


def same_perception(said: str | None, truth: str) -> bool:
    """Whether two readings agree but for white space and case."""
    return said is not None and "".join(said.split()).lower() == "".join(truth.split()).lower()

"""Whether a policy reads the image right: the fields in its reply, compared with those that the image shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rl4vlm.core.types import Policy, Reply, Request

PREFIX = "read "
"""Prefix of these results among a reply's numbers: 1 for a field that was read right, 0 if it is wrong or missing."""


@dataclass(frozen=True)
class PerceptionExaminer:
    """A policy that replies as `policy` does and adds to each reply's numbers which fields it read right.

    The reply's `replay_item` is dropped: an evaluation trains nothing, and these items are large.
    """

    policy: Policy
    patterns: Mapping[str, re.Pattern[str]]

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        # Ask the environment before the policy acts: its state may have changed when the replies are there.
        shown = [dict(request.env.perception()) for request in requests]
        return [
            replace(reply, numbers={**reply.numbers, **marks(reply.text, truth, self.patterns)}, replay_item=None)
            for reply, truth in zip(self.policy.act(requests), shown, strict=True)
        ]


def marks(text: str, truth: Mapping[str, str], patterns: Mapping[str, re.Pattern[str]]) -> dict[str, float]:
    """Which fields a reply read right, 1.0 or 0.0 by `PREFIX` + field.

    Args:
        text: the reply.
        truth: what the image shows, by field.
        patterns: how to find a field in a reply. Fields that the image does not show are left out.
    """
    return {
        f"{PREFIX}{field}": float(same_perception(said_of(pattern, text), truth[field]))
        for field, pattern in patterns.items()
        if field in truth
    }


def said_of(pattern: re.Pattern[str], text: str) -> str | None:
    """A field as the reply has it (the first group of the pattern), or None."""
    match = pattern.search(text)
    return match[1] if match else None


def same_perception(said: str | None, truth: str) -> bool:
    """Whether a reply has the right value, apart from white space and case."""
    return said is not None and "".join(said.split()).lower() == "".join(truth.split()).lower()

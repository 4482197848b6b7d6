"""Whether a policy reads the image right: the fields in its reply, compared with those that the image shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rl4vlm.core.types import Policy, Reply, Request

MARKS = ("right", "wrong", "not_stated")
"""Not stated: the reply has no value of the field's form. It may describe the image in other words."""


@dataclass(frozen=True)
class PerceptionExaminer:
    """A policy that replies as `policy` does and adds to each reply which fields it read right.

    The reply's `replay_item` is dropped: an evaluation trains nothing, and these items are large.
    """

    policy: Policy
    patterns: Mapping[str, re.Pattern[str]]

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        # Ask the environment before the policy acts: its state may have changed when the replies are there.
        shown = [dict(request.env.perception()) for request in requests]
        return [
            replace(reply, perception=marks(reply.text, truth, self.patterns), replay_item=None)
            for reply, truth in zip(self.policy.act(requests), shown, strict=True)
        ]


def marks(text: str, truth: Mapping[str, str], patterns: Mapping[str, re.Pattern[str]]) -> dict[str, str]:
    """Which fields a reply read right: one of `MARKS` by field.

    Args:
        text: the reply.
        truth: what the image shows, by field.
        patterns: how to find a field in a reply. Fields that the image does not show are left out.
    """
    found = {field: pattern.search(text) for field, pattern in patterns.items() if field in truth}
    return {
        field: "not_stated" if match is None else "right" if same_perception(match[1], truth[field]) else "wrong"
        for field, match in found.items()
    }


def same_perception(said: str, truth: str) -> bool:
    """Whether a reply has the right value, apart from white space, case, quotes and the word "and"."""
    return _words(said) == _words(truth)


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if word != "and"]

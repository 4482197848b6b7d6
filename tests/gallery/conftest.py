"""Evaluations to show: of the solver, and of a policy that writes hostile replies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.types import Reply, Request, Style
from rl4vlm.evaluation.run import Origin, run
from rl4vlm.policies.scripted import random_action

HOSTILE = (
    '</script><img src="x" onerror="window.hacked = 1">',
    "<!-- <script>window.hacked = 2</script>",
    "one\u2028two\u2029three \U0001f600 [[data]] [[script]]",
    '&lt;b&gt; ]]> </textarea></pre><iframe srcdoc="<script>parent.hacked = 3</script>">',
    "null \x00, bell \x07, right to left \u202e",
)


class Scribbler:
    """Writes hostile replies; one in three has no action."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Reply:
        text = HOSTILE[int(request.rng.integers(len(HOSTILE)))]
        action = f'", "action": "{random_action(request)}"}}' if request.rng.integers(3) else ""
        numbers = {
            "logprob_thoughts": -float(request.rng.integers(1, 3000)) / 100,
            "logprob_action": -0.25 if action else 0.0,
            "value": float(request.rng.random()),
            "tokens": float(len(text)),
        }
        return Reply(f'{{"thoughts": "{text}{action}', numbers)


def evaluations(folder: Path) -> list[Path]:
    """Write six evaluations of 24 episodes on two tasks. The last one is edited to look as if its games were data."""
    settings = EvaluationSettings(episodes=24, num_envs=8)
    folders = []
    for task in ("NumberLine", "EZPoints"):
        scribbler = Origin("RL4VLM", "ppo", 0.5, 1), Scribbler(), Style.COT
        action_only = Origin("<b>RL4VLM</b>-noCoT", "ppo", 0.5, 1), Scribbler(), Style.ACTION_ONLY
        for origin, policy, style in ((None, "solver", Style.COT), scribbler, action_only):
            out = folder / f"{policy if isinstance(policy, str) else f'ppo-{style}'}-{task}"
            run(policy=policy, task=task, style=style, out=out, settings=settings, origin=origin)
            folders.append(out)
    summary = json.loads((folders[-1] / "summary.json").read_text())
    summary |= {"data_sources": ["official, drawn pictures"], "games": "<b>seen</b>"}
    (folders[-1] / "summary.json").write_text(json.dumps(summary))
    record = json.loads((folders[-1] / "run.json").read_text())
    del record["outputs"]  # or the edit would be noticed
    (folders[-1] / "run.json").write_text(json.dumps(record))
    return folders


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return evaluations(tmp_path_factory.mktemp("eval"))

"""The numbers of an evaluation, from the lines of its episodes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.types import Style
from rl4vlm.evaluation.run import run
from rl4vlm.evaluation.summary import summarise
from tests.launch import ROOT

LINE: dict[str, Any] = {
    "success": True,
    "return": 1.0,
    "seed": 1,
    "perception": {},
    "steps": [{"fallback": False, "outcome": "ok"}],
}


def test_summary_of_no_perceptions_and_no_numbers() -> None:
    line = dict(LINE)
    summary = summarise([line])
    line["perception"] = {"cards": {"right": 0, "wrong": 0, "not_stated": 4}}
    assert summarise([line])["perception_accuracy"] == {"cards": None}
    assert (summary["perception_accuracy"], summary["reply_tokens"], summary["mean_length"]) == ({}, None, 1.0)


def won(success: bool, group: str, source: str = "generated") -> dict[str, Any]:
    """The line of an episode of a task that is counted by groups."""
    return {**LINE, "success": success, "group": group, "data_source": source}


def test_groups_are_counted_apart_and_an_empty_one_has_no_rate() -> None:
    lines = [won(True, "Pick"), won(True, "Pick"), won(False, "Pick"), won(False, "Heat", "official")]
    summary = summarise(lines, ("Pick", "Look", "Heat"))
    groups = summary["groups"]
    assert list(groups) == ["Pick", "Look", "Heat"]
    assert [(group["successes"], group["episodes"]) for group in groups.values()] == [(2, 3), (0, 0), (0, 1)]
    assert groups["Pick"]["success_rate"] == pytest.approx(200 / 3)
    assert groups["Pick"]["ci_low"] < 200 / 3 < groups["Pick"]["ci_high"]
    assert (groups["Look"]["success_rate"], groups["Look"]["ci_low"]) == (None, None)
    # The overall rate is the groups' average weighted by how often each came.
    weighted = sum(g["episodes"] * (g["success_rate"] or 0.0) for g in groups.values()) / 4
    assert summary["success_rate"] == pytest.approx(weighted) == 50
    assert summary["data_sources"] == ["generated", "official"]


def test_an_episode_of_no_group_counts_only_in_all() -> None:
    of_none = won(True, "Pick")
    del of_none["group"]
    summary = summarise([won(False, "Pick"), of_none], ("Pick",))
    assert (summary["successes"], summary["groups"]["Pick"]["episodes"]) == (1, 1)


def test_every_entry_is_explained(tmp_path: Path) -> None:
    run(policy="solver", task="NumberLine", style=Style.COT, out=tmp_path, settings=EvaluationSettings(episodes=1))
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for file, heading in (("episodes.jsonl", "one line per episode"), ("summary.json", "totals")):
        rows = page.split(f"## `eval/<run>/{file}`: {heading}")[1].split("\n## ")[0]
        explained = set(
            re.findall(r"`([^`]+)`", " ".join(row.split("|")[1] for row in rows.splitlines() if "|" in row))
        )
        written = json.loads((tmp_path / file).read_text(encoding="utf-8"))
        assert set(written) <= explained

"""A scripted policy is one row: one that is added is evaluated, tabled and drawn. Another row says how it looks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl4vlm.cli.parser import build_parser
from rl4vlm.config.code_digest import module_digests
from rl4vlm.config.methods import METHODS, OTHER_COLOUR, PUBLISHED_ONLY, Method, label_of
from rl4vlm.config.runs import evaluation_runs
from rl4vlm.config.scripted import SCRIPTED, ScriptedPolicy
from rl4vlm.core.types import Style
from rl4vlm.evaluation.policy_origin import origin_of
from rl4vlm.figures.style import FigureStyle
from rl4vlm.figures.training_curves import figure
from rl4vlm.policies.registry import make_policy
from rl4vlm.policies.scripted import RandomPolicy
from rl4vlm.results.collection import Results
from rl4vlm.results.origin import Origin
from rl4vlm.results.tables import build_tables
from tests.results.synthetic import add_evaluation, make_results

CONFIG: dict[str, Any] = {
    "tasks": ["NumberLine", "EZPoints"],
    "styles": ["cot"],
    "seeds": [1],
    "ppo": {"defaults": {"thought_prob_coef": 0.5}},
}


@pytest.fixture
def cautious(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more scripted policy, for EZPoints."""
    policy = "rl4vlm.policies.scripted:RandomPolicy"
    monkeypatch.setitem(SCRIPTED, "cautious", ScriptedPolicy("stop early", policy, tasks=("EZPoints",)))


@pytest.mark.usefixtures("cautious")
def test_it_is_run_and_played_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    names = [run.name for run in evaluation_runs(CONFIG) if run.kind == "scripted"]
    assert "cautious-EZPoints" in names
    assert "cautious-NumberLine" not in names
    assert isinstance(make_policy("cautious", Style.COT), RandomPolicy)
    assert origin_of("cautious", Style.COT, "EZPoints") == Origin("stop early", "scripted")
    with pytest.raises(SystemExit):
        build_parser().parse_args(["evaluate", "--help"])
    assert "`cautious` (EZPoints)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("cautious")
@pytest.mark.parametrize(
    ("label", "colour", "rows"),
    [("stops early", "#123456", [Method("stops early", "#123456")]), ("stop early", OTHER_COLOUR, [])],
)
def test_it_is_tabled_and_drawn(
    label: str, colour: str, rows: list[Method], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for row in rows:
        monkeypatch.setitem(METHODS, "stop early", row)
    made = make_results(tmp_path, tasks=["EZPoints"], styles=["cot"], episodes=20)
    add_evaluation(made, "cautious-EZPoints", "EZPoints", "stop early", "scripted", 0.25, 20)
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    with (tmp_path / "tables" / "main.csv").open(encoding="utf-8") as file:
        methods = list(dict.fromkeys(row["method"] for row in csv.DictReader(file) if row["source"] == "reproduced"))
    order = [*METHODS, "stop early"]
    assert methods == sorted(methods, key=order.index)
    assert methods[-1] == "stop early"
    drawn = figure(Results.load(**made.inputs), "embedded", FigureStyle(dpi=40))
    lines = {line.get_label(): line for part in drawn.subfigs for axis in part.axes for line in axis.lines}
    assert lines[label].get_color() == colour
    assert np.asarray(lines[label].get_ydata()).tolist() == [25.0, 25.0]


def test_rows_are_consistent() -> None:
    assert {policy.method for policy in SCRIPTED.values()} <= METHODS.keys()
    assert {*PUBLISHED_ONLY} <= METHODS.keys()
    assert label_of("RL4VLM-noCoT") == "RL4VLM without thoughts"
    assert label_of("GPT-5") == "GPT-5"


def test_no_evaluation_reads_how_methods_look() -> None:
    found = module_digests("rl4vlm.evaluation.run", ["EZPoints", "vlm", "cnn", "served", *SCRIPTED])
    assert "rl4vlm.config.scripted" in found
    assert "rl4vlm.config.methods" not in found
    assert "rl4vlm.config.methods" in module_digests("rl4vlm.results.tables", [])

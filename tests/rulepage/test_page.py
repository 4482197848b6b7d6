"""docs/rules.md and its picture are those of the Snakefile as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rl4vlm.rulepage.page import page, subcommand
from rl4vlm.rulepage.read import RuleText, Workflow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page and picture, made now."""
    folder = tmp_path_factory.mktemp("docs")
    arguments = ["rule-docs", "--out", str(folder / "rules.md"), "--picture", str(folder / "assets" / "rulegraph.svg")]
    # In a process of its own: a Snakefile that is read changes the process that reads it.
    command = [sys.executable, "-m", "rl4vlm.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["rules.md", "assets/rulegraph.svg"])
def test_it_is_up_to_date(fresh: Path, name: str) -> None:
    made, kept = (fresh / name).read_text(), (ROOT / "docs" / name).read_text()
    assert made == kept, f"docs/{name} is out of date: run `make docs`"


def test_it_has_every_rule_of_every_config(fresh: Path) -> None:
    text = (fresh / "rules.md").read_text()
    for rule in (
        "base_model",
        "shipped_model",
        "download",
        "sft",
        "ppo",
        "evaluate_ppo",
        "evaluate_api",
        "tables",
        "archive",
    ):
        assert f"| `{rule}` |" in text, rule
    assert "`training_curves`<br>`cot_ablation`" in text


def rule(name: str, **changes: object) -> RuleText:
    given = {
        "names": (name,),
        "file": "rules/x.smk",
        "line": 1,
        "does": f"Does {name} | that.",
        "outputs": (f"results/{name}/a.csv", f"results/{name}/a.md", f"results/{name}/run.json"),
        "resources": {"_cores": 2, "mem_mb": 100, "runtime": 5, "gpu": 1},
        "command": f"rl4vlm {name} --out {{output}} 2>&1 | tee {{log}}",
        "shared": False,
    }
    return RuleText(**{**given, **changes})  # type: ignore[arg-type]


def test_a_row_says_what_a_rule_needs_writes_and_asks_for() -> None:
    rules = (rule("one", shared=True), rule("two"), rule("three"))
    needs = frozenset([("two", "one"), ("three", "two"), ("three", "one")])
    text = page(Workflow(rules, needs, frozenset(["one"])), "assets/x.svg")
    row = (
        "| `{}` | Does {} \\| that.{} | {} | `results/{}/`: `a.csv` `.md`, `run.json` "
        "| 2 threads, 100 MB, 5 min, 1 GPU |"
    )
    assert row.format("one", "one", " May be shared between workflows.", "", "one") in text
    # What follows is left out.
    assert row.format("three", "three", "", "`two`", "three") in text
    assert "```\nrl4vlm three --out {output}\n```" in text
    assert "![Which rule needs which](assets/x.svg)" in text


def test_a_launcher_in_front_is_no_part_of_the_subcommand() -> None:
    assert subcommand("{params.rl4vlm} ppo --task x") == "rl4vlm ppo"

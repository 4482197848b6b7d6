"""Claims: each names a cell, and holds or says what was found."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.cli.commands import check_results
from rl4vlm.config.load import load_config
from rl4vlm.results.claims import Claim, broken_claims, load_claims
from rl4vlm.results.tables import build_tables
from tests.results.synthetic import add_evaluation, make_results

ROOT = Path(__file__).parents[2]


def claim(**changes: Any) -> Claim:
    row = {"method": "RL4VLM", "task": "EZPoints"}
    found: dict[str, Any] = {
        "claim": "it learns",
        "file": "t.csv",
        "row": row,
        "column": "rate",
        "value": 90,
        **changes,
    }
    return Claim(**(found | changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"value": 88.0, "tolerance": 2.5}, None),
        ({"value": 80.0, "tolerance": 2.5}, "rate is 90.0, not 80 ± 2.5"),
        ({"column": "verdict", "value": "better"}, None),
        ({"column": "verdict", "value": "worse"}, "verdict is 'better', not 'worse'"),
        ({"column": "empty", "value": 0.0, "tolerance": 100}, "empty is empty"),
        ({"column": "rates"}, "there is no column 'rates'"),
        ({"row": {"method": "RL4VLM"}}, "2 rows have"),
        ({"file": "x.csv"}, "the file is missing"),
    ],
)
def test_a_claim_holds_or_says_what_was_found(tmp_path: Path, changes: dict[str, object], problem: str | None) -> None:
    (tmp_path / "t.csv").write_text(
        "method,task,rate,verdict,empty\nRL4VLM,EZPoints,90.0,better,\nRL4VLM,Points24,2.0,worse,\n"
    )
    found = broken_claims([claim(**changes)], tmp_path)
    assert found == [] if problem is None else len(found) == 1 and problem in found[0] and "it learns" in found[0]


def test_a_claim_of_other_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text("results: [{claim: x, fil: y}]")
    with pytest.raises(ValueError, match=r"claims\.yaml holds no claims[\s\S]*fil"):
        load_claims(tmp_path / "claims.yaml", "results")


def test_a_file_that_is_no_text_or_no_table_is_named(tmp_path: Path) -> None:
    for name in ("claims.yaml", "t.csv"):
        (tmp_path / name).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"claims\.yaml is not UTF-8 text"):
        load_claims(tmp_path / "claims.yaml", "results")
    (problem,) = broken_claims([claim()], tmp_path)
    assert "the file is no table" in problem


def test_the_project_s_claims_name_cells_that_a_run_writes(tmp_path: Path) -> None:
    made = make_results(tmp_path, episodes=20, cnn=True)
    household: dict[str, Any] = {"overall": "alfworld_avg", "data_sources": ["generated"], "games": "unseen"}
    for method, kind in (("LLaVA-sft", "sft"), ("RL4VLM", "ppo"), ("CNN+RL", "cnn")):
        groups = {"pick": {"successes": 4, "episodes": 20, "success_rate": 20.0}}
        add_evaluation(
            made, f"{kind}-ALFWorld@unseen", "ALFWorld", method, kind, 0.2, 20, seed=1, groups=groups, **household
        )
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    claims = load_claims(ROOT / "claims.yaml", load_config([ROOT / "config" / "config.yaml"])["results_dir"])
    assert len(claims) > 5
    # The numbers differ, for these results are invented; but each claim finds its one cell.
    assert not [problem for problem in broken_claims(claims, tmp_path) if "rows" in problem or "no column" in problem]
    assert load_claims(ROOT / "claims.yaml", "results/smoke") == []


def test_claims_are_found_however_the_folder_is_written(tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text("results/x:\n- {claim: c, file: t.csv, column: v, value: 1}\n")
    for folder in ("results/x", "./results/x", "results/x/"):
        assert len(load_claims(tmp_path / "claims.yaml", folder)) == 1
    assert load_claims(tmp_path / "claims.yaml", "results/y") == []
    other = "results/x/:\n- {claim: d, file: t.csv, column: v, value: 1}\n"
    (tmp_path / "claims.yaml").write_text((tmp_path / "claims.yaml").read_text() + other)
    assert [one.claim for one in load_claims(tmp_path / "claims.yaml", "results/x")] == ["c", "d"]


def test_a_named_file_without_claims_about_the_results_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text("results/elsewhere: []\n")
    with pytest.raises(ValueError, match=r"claims\.yaml has no claims about results$"):
        check_results(Namespace(config=[], claims=tmp_path / "claims.yaml"))

"""The table of ablations: variants stand beside the method, and count as the method nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rl4vlm.results.ablations import ablation_rows
from rl4vlm.results.collection import Results
from rl4vlm.results.tables import build_tables
from tests.results.synthetic import add_evaluation, make_results

VARIANTS = {"defect_dropout": 0.3, "same": 0.95}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = make_results(
        tmp_path_factory.mktemp("results"), ("NumberLine",), ("cot",), (1, 2, 3), (0.5,), variants=VARIANTS
    )
    add_evaluation(made, "sft", "NumberLine", "LLaVA-sft", "sft", 0.2, 200, seed=9, variant="defect_dropout")
    return made.inputs


def test_each_variant_has_its_rate_and_its_difference(inputs: dict[str, Any]) -> None:
    rows = ablation_rows(Results.load(**inputs), "embedded").set_index(["method", "variant"])
    assert list(rows.index) == [
        ("RL4VLM", ""), ("RL4VLM", "defect_dropout"), ("RL4VLM", "same"), ("LLaVA-sft", ""),
        ("LLaVA-sft", "defect_dropout"),
    ]  # fmt: skip
    by_name = rows.to_dict("index")
    worse = by_name["RL4VLM", "defect_dropout"]
    # 95, 94 and 93 % of the method's own episodes.
    assert [worse["success_rate"], worse["difference"]] == pytest.approx([30, 30 - 94])
    assert (worse["verdict"], worse["episodes"], worse["seeds"]) == ("worse", 600, "1 2 3")
    assert by_name["RL4VLM", "same"]["rate_low"] < 95 < by_name["RL4VLM", "same"]["rate_high"]
    assert pd.isna(by_name["RL4VLM", ""]["difference"])
    # No warm start of the method has this seed.
    assert pd.isna(by_name["LLaVA-sft", "defect_dropout"]["difference"])


def test_no_other_table_counts_variants(inputs: dict[str, Any], tmp_path: Path) -> None:
    plain = make_results(tmp_path / "plain", ("NumberLine",), ("cot",), (1, 2, 3), (0.5,))
    for name, found in (("with", inputs), ("without", plain.inputs)):
        build_tables(**found, out=tmp_path / name, scale="embedded")
    for table in ("main", "differences", "ceiling", "perception"):
        with_variants, without = ((tmp_path / name / f"{table}.csv").read_text() for name in ("with", "without"))
        assert with_variants == without
    text = (tmp_path / "with" / "ablations.md").read_text()
    assert "| defect dropout |" in text
    assert "-64.0 [" in text

"""Budgets, and the page that is made of records."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl4vlm.core.files import read_json_lines
from tests.torture.page import page
from tests.torture.records import RECORDS, SHARE, budget, trial


@pytest.mark.parametrize(("share", "inputs"), [(None, 5), ("1", 1000), ("0.1", 100), ("0.001", 5)])
def test_a_budget_is_a_setting(monkeypatch: pytest.MonkeyPatch, share: str | None, inputs: int) -> None:
    monkeypatch.delenv(SHARE, raising=False)
    if share:
        monkeypatch.setenv(SHARE, share)
    assert budget(short=5, long=1000) == inputs


def test_the_page_tells_what_was_tried_and_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RECORDS, str(tmp_path / "records.jsonl"))
    for _ in range(2):
        with trial("Parsers", "replies") as tried:
            tried.ended("read", times=1234)
    with pytest.raises(AssertionError, match="accepted: NaN"), trial("Files", "weights") as tried:
        tried.failed("accepted", "NaN")
    with pytest.raises(KeyError), trial("Files", "settings"):
        raise KeyError("seed")
    text = page(record for _, record in read_json_lines(tmp_path / "records.jsonl"))
    assert "| replies | 1,234 | 1,234 read |" in text
    assert "| weights | 1 | **1 failed: accepted** |" in text
    assert "| settings | 1 | **1 failed: KeyError** |" in text
    assert "Attempts: 1,236. Failures: 2." in text

"""`run.json`: what a run was made from."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl4vlm.core.types import Style
from rl4vlm.results import provenance
from rl4vlm.results.origin import origin_of_run
from rl4vlm.results.provenance import inputs_now, write_run_record


def record_of(folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "input").write_text("x")
    given: dict[str, Any] = {
        "stage": "test",
        "settings": {"style": Style.COT, "rate": 0.5},
        "seeds": {"test": 1},
        "inputs": inputs_now({"data": folder / "input"}),
        "seconds": 1.23456,
    }
    write_run_record(folder, **{**given, **changes})
    read: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return read


def test_records_settings_inputs_packages_and_hardware(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    assert (record["stage"], record["seeds"], record["seconds"]) == ("test", {"test": 1}, 1.235)
    assert record["settings"] == {"style": "cot", "rate": 0.5}
    sha256 = hashlib.sha256(b"x").hexdigest()
    assert record["inputs"] == {"data": {"path": str(tmp_path / "input"), "sha256": sha256}}
    assert record["hardware"]["cores"] >= 1
    assert record["hardware"]["memory_gb"] > 0
    assert record["packages"]["numpy"] == np.__version__
    assert {"python", "rl4vlm", "torch", "snakemake"} <= set(record["packages"])
    assert record["finished"].endswith("+00:00")


def test_an_input_is_recorded_as_it_was_when_the_run_began(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("old")
    began_with = inputs_now({"init": tmp_path / "weights", "hub": Path("owner/model")})
    (tmp_path / "weights").write_text("new")
    inputs = record_of(tmp_path, inputs=began_with)["inputs"]
    assert inputs["init"]["sha256"] == hashlib.sha256(b"old").hexdigest()
    assert inputs["hub"] == {"path": "owner/model", "sha256": None}


def test_records_the_revision_of_the_code_not_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path(provenance.__file__).parents[2]
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = asked.stdout.strip() if asked.returncode == 0 else None
    assert record_of(tmp_path)["code"]["revision"] == expected


def test_outside_a_checkout_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the package is installed, untracked, inside another repository, as a virtual environment may be."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "lib/rl4vlm/results").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "lib/rl4vlm/results/provenance.py"))
    assert record_of(tmp_path)["code"] == {"revision": None, "changed": None}


def test_an_edit_of_the_code_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "rl4vlm"
    (package / "results").mkdir(parents=True)
    (package / "__init__.py").write_text("")

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    monkeypatch.setattr(provenance, "__file__", str(package / "results/provenance.py"))
    assert provenance.code_revision()["changed"] is False
    (package / "__init__.py").write_text("x = 1\n")
    assert provenance.code_revision()["changed"] is True


def test_the_record_of_a_checkpoint_is_found_by_any_of_its_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    (tmp_path / "best").symlink_to(run / "checkpoint")
    monkeypatch.chdir(run / "checkpoint")
    for path in (Path(), Path("../checkpoint"), tmp_path / "best"):
        assert provenance.record_of(path) == run / "run.json"


def test_a_variant_of_the_network_is_not_the_method_itself() -> None:
    record = {"stage": "cnn", "seeds": {"cnn": 1}, "settings": {"variant": "wide"}}
    found = origin_of_run(record, None, Path("run.json"))
    assert found is not None
    assert found.variant == "wide"

"""What is packed, what is not, and that packing again gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from rl4vlm.archive.code import revision_and_tree
from rl4vlm.archive.pack import needed_packages, pack, results_files
from tests.archive.conftest import CONFIG, git, make_checkout
from tests.results.synthetic import write_lines

RUN = "ppo/NumberLine-cot-lambda0.5-seed1"


def content(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def copied(results: Path, to: Path) -> Path:
    return Path(shutil.copytree(results, to / "results"))


def test_the_folder_that_a_killed_packing_left_is_removed(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "rl4vlm-index-0").mkdir()
    revision_and_tree(checkout)
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_lists_every_other_file(packed: Path) -> None:
    files = content(packed)
    lines = [line.split("  ") for line in files.pop("SHA256SUMS").decode().splitlines()]
    sums = {name: digest for digest, name in lines}
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_packs_tables_figures_and_all_runs_behind_them(packed: Path) -> None:
    names = set(content(packed))
    assert {f"results/tables/{table}.csv" for table in ("main", "cot", "lambda", "perception")} <= names
    assert {"results/figures/training_curves.pdf", "results/figures/training_curves.run.json"} <= names
    assert {f"results/eval/{RUN.replace('/', '-')}/{file}" for file in ("episodes.jsonl", "run.json")} <= names
    assert {f"results/{RUN}/metrics.jsonl", f"results/{RUN}/run.json"} <= names
    # No figure reads these. The records of PPO runs name them.
    assert {"results/sft/EZPoints-nocot-seed1/metrics.jsonl", "results/sft_data/EZPoints-cot/manifest.json"} <= names
    assert {"results/base_model/cards/run.json", "results/base_model/cards/perception.json"} <= names
    assert {"code/rl4vlm/archive/verify.py", "config.yaml", "requirements.txt", "README.md"} <= names


def test_weights_leftovers_and_caches_are_not_packed(packed: Path) -> None:
    files = content(packed)
    assert not [name for name in files if name.endswith(".safetensors") or "checkpoint/" in name]
    assert not [name for name in files if "lambda0.9" in name or "api_cache" in name or name.endswith("data.json")]
    left_out = json.loads(files["archive.json"])["code"]["left_out"]
    assert left_out == {"model.safetensors": hashlib.sha256(b"weights of the repository").hexdigest()}


def test_names_the_packed_code_and_the_code_that_made_the_results(packed: Path, checkout: Path) -> None:
    files = content(packed)
    about = json.loads(files["archive.json"])
    revision = git(checkout, "rev-parse", "HEAD")
    assert (about["code"]["revision"], about["code"]["changed"]) == (revision, False)
    assert revision in files["README.md"].decode()
    assert "without any uncommitted changes" in files["README.md"].decode()
    assert "uncommitted.patch" not in files
    made_by = {entry["revision"]: entry["records"] for entry in about["results_made_by"]}
    assert made_by["abc"] == len([name for name in files if name.endswith("/run.json") and "/tables/" not in name])
    assert yaml.safe_load(files["config.yaml"]) == CONFIG


def test_the_same_results_give_the_same_bytes(results: Path, checkout: Path, packed: Path, tmp_path: Path) -> None:
    again = tmp_path / "other name.zip"
    pack(results=copied(results, tmp_path), out=again, code=checkout, config=CONFIG)
    assert again.read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("name", ["paper.zip", "for the journal/paper"])
def test_an_archive_inside_the_checkout_is_not_packed(results: Path, tmp_path: Path, name: str) -> None:
    code = make_checkout(tmp_path / "code")
    once, again = (
        (pack(results=results, out=code / name, code=code, config=CONFIG), (code / name).read_bytes()) for _ in range(2)
    )
    assert again == once
    assert not once[0].changed


def test_git_ignores_the_files_that_the_docs_tell_users_to_make(results: Path, checkout: Path) -> None:
    made = ("rl4vlm.sif", "rl4vlm.tar", "paper.zip", "report.zip", "report.html")
    for name in made:
        subprocess.run(["git", "-C", str(checkout), "check-ignore", "--quiet", name], check=True)
    subprocess.run(["git", "-C", str(checkout), "check-ignore", "--quiet", "images/other.sif"], check=True)


def test_every_change_changes_the_hashes(tmp_path: Path) -> None:
    code = make_checkout(tmp_path / "code")
    seen = [revision_and_tree(code)]
    (code / "run.sh").write_text("#!/bin/sh\necho edited\n")
    seen.append(revision_and_tree(code))
    (code / "new.txt").write_text("new\n")
    seen.append(revision_and_tree(code))
    # The same files, committed: a new revision, the same tree.
    git(code, "add", "--all")
    git(code, "commit", "--quiet", "--message", "edited")
    seen.append(revision_and_tree(code))
    assert len(set(seen)) == 4
    assert seen[-1][1] == seen[-2][1]
    # If `ignore` is tracked, its committed version counts.
    (code / "new.txt").write_text("newer\n")
    assert revision_and_tree(code, ignore=code / "new.txt") == seen[-1]


def test_executables_stay_executable(packed: Path) -> None:
    with zipfile.ZipFile(packed) as opened:
        assert opened.getinfo("code/run.sh").external_attr >> 16 == 0o100755
        assert opened.getinfo("code/rl4vlm/__init__.py").external_attr >> 16 == 0o100644


def test_uncommitted_changes_are_packed_and_marked(results: Path, tmp_path: Path) -> None:
    code = make_checkout(tmp_path / "code")
    committed = (code / "run.sh").read_bytes()
    (code / "run.sh").write_text("#!/bin/sh\necho edited\n")
    (code / "new.txt").write_text("new\n")
    before = git(code, "status", "--porcelain")
    done = pack(results=results, out=tmp_path / "paper.zip", code=code, config=CONFIG)
    assert done.changed
    assert git(code, "status", "--porcelain") == before
    files = content(tmp_path / "paper.zip")
    assert json.loads(files["archive.json"])["code"]["changed"] is True
    assert "with uncommitted changes" in files["README.md"].decode()
    assert files["code/new.txt"] == b"new\n"
    assert b"echo edited" in files["code/run.sh"]
    # The patch turns the last commit into the packed code.
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "--quiet", str(code), str(fresh))
    assert (fresh / "run.sh").read_bytes() == committed
    subprocess.run(["git", "-C", str(fresh), "apply"], input=files["uncommitted.patch"], check=True)
    assert (fresh / "run.sh").read_bytes() == files["code/run.sh"]
    assert (fresh / "new.txt").read_bytes() == b"new\n"


def test_a_metric_that_changed_since_the_tables_were_made_is_named(results: Path, tmp_path: Path) -> None:
    mine = copied(results, tmp_path)
    write_lines(mine / RUN / "metrics.jsonl", [{"update": 1}])
    with pytest.raises(ValueError, match=rf"{RUN}/metrics.jsonl: not the file that tables/run.json was made from"):
        results_files(mine)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("figures/perception.pdf", "figures/perception.pdf: missing"),
        ("tables/run.json", "tables/run.json: missing"),
        (f"{RUN}/run.json", f"{RUN}/run.json: missing; tables/run.json says"),
        ("sft/NumberLine-cot-seed1/run.json", "sft/NumberLine-cot-seed1/run.json is missing"),
        (f"{RUN}/metrics.jsonl", f"{RUN}/metrics.jsonl: missing; tables/run.json says"),
    ],
)
def test_a_missing_file_is_named(results: Path, tmp_path: Path, name: str, message: str) -> None:
    mine = copied(results, tmp_path)
    (mine / name).unlink()
    with pytest.raises(ValueError, match=message):
        results_files(mine)


def test_a_missing_folder_of_results_is_named_alone(checkout: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nosuch"
    with pytest.raises(ValueError, match=rf"^no results at {nowhere}: there is no such folder$"):
        pack(results=nowhere, out=tmp_path / "paper.zip", code=checkout, config=CONFIG)


def test_the_config_of_other_results_is_refused(results: Path, checkout: Path, tmp_path: Path) -> None:
    other = {**CONFIG, "label": "embedded-seeds"}
    with pytest.raises(ValueError, match="of scale 'embedded', the config of 'embedded-seeds': name the config"):
        pack(results=results, out=tmp_path / "paper.zip", code=checkout, config=other)


def test_code_outside_a_checkout_is_refused(results: Path, tmp_path: Path) -> None:
    (tmp_path / "code" / "rl4vlm").mkdir(parents=True)
    (tmp_path / "code" / "rl4vlm" / "__init__.py").touch()
    for code, message in ((tmp_path, "is not the project's folder"), (tmp_path / "code", "cannot be packed: git")):
        with pytest.raises(ValueError, match=message):
            pack(results=results, out=tmp_path / "paper.zip", code=code, config=CONFIG)
    assert not (tmp_path / "paper.zip").exists()


def test_packages_include_their_requirements() -> None:
    found = needed_packages(("matplotlib",))
    assert {"matplotlib", "numpy", "contourpy"} <= set(found)
    assert "torch" not in found

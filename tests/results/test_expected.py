"""What the check of a finished run finds wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rl4vlm.config.load import load_config
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.types import Style
from rl4vlm.evaluation.run import run
from rl4vlm.figures.draw import draw
from rl4vlm.results.expected import expected_files, problems
from rl4vlm.results.tables import build_tables

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", b'{"x": 1}', None),
        ("a.json", b"{", "not JSON"),
        ("a.jsonl", b'{"x": 1}\n{"x": 2}\n', None),
        ("a.jsonl", b'{"x": 1}\n{"x"\n', "not JSON"),
        ("a.png", b"\x89PNG\r\n", None),
        ("a.png", b"picture", "not a png file"),
        ("a.pdf", b"%PDF-1.4", None),
        ("a.html", b"\n<!DOCTYPE html>", None),
        ("a.csv", b"method,task\nrandom,Blackjack\n", None),
        ("a.csv", b"method,task\n", "a table without rows"),
        ("a.md", b" \n", "empty"),
        ("a.md", b"\xd4\xff", "not text"),
        ("a.safetensors", b"\xd4\xff", None),
        ("a.md", None, "missing"),
        ("a.json", b'{"a": NaN}', "NaN is no finite number"),
        ("a.jsonl", b'{}\n{"a": 1e999}\n', "line 2 is not JSON"),
    ],
)
def test_a_file_is_what_its_name_says(tmp_path: Path, name: str, content: bytes | None, problem: str | None) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    found = problems([file])
    assert found == [] if problem is None else len(found) == 1 and problem in found[0] and str(file) in found[0]


def test_a_file_that_its_record_does_not_list_as_it_is_is_found(tmp_path: Path) -> None:
    evaluation = tmp_path / "random-NumberLine"
    run(policy="random", task="NumberLine", style=Style.COT, out=evaluation, settings=EvaluationSettings(episodes=3))
    files = [evaluation / name for name in ("episodes.jsonl", "summary.json", "run.json")]
    assert problems(files) == []
    lines = files[0].read_text().splitlines(keepends=True)
    files[0].write_text("".join(lines[:2]))
    (problem,) = problems(files)
    assert "episodes.jsonl is damaged or was changed" in problem
    files[1].unlink()
    assert problems(files) == [f"{files[1]}: missing"]


def test_tables_that_were_made_from_other_evaluations_are_found(tmp_path: Path) -> None:
    played = tmp_path / "eval" / "random-NumberLine"
    settings = EvaluationSettings(episodes=3)
    run(policy="random", task="NumberLine", style=Style.COT, out=played, settings=settings)
    build_tables(evaluations=[played], training_runs=[], base_perceptions={}, scale="here", out=tmp_path / "tables")
    files = [tmp_path / "tables" / "run.json"]
    assert problems(files) == []
    run(policy="random", task="NumberLine", style=Style.COT, out=played, settings=replace(settings, episodes=4))
    found = problems(files)
    assert len(found) == 2
    assert all("not the file that tables/run.json was made from" in problem for problem in found)


def test_a_figure_that_its_record_does_not_list_as_it_is_is_found(tmp_path: Path) -> None:
    out = tmp_path / "figures" / "lambda_ablation"
    draw(out.name, evaluations=[], training_runs=[], base_perceptions={}, scale="here", out=out)
    image, record = out.with_name("lambda_ablation.png"), out.with_name("lambda_ablation.run.json")
    assert problems([image, record]) == []
    image.write_bytes(image.read_bytes() + b"more")
    assert problems([image, record]) == [f"{image}: not the file that lambda_ablation.run.json lists"]


def test_a_string_in_json_may_hold_other_separators_of_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"reply": "one\u2028two"}\n', encoding="utf-8")
    assert problems([tmp_path / "a.jsonl"]) == []


def test_the_default_config_expects_what_the_design_names() -> None:
    files = {path.as_posix() for path in expected_files(load_config([ROOT / "config" / "config.yaml"]))}
    assert {
        "results/report.html",
        "results/tables/main.csv",
        "results/tables/differences.tex",
        "results/figures/training_curves.pdf",
        "results/ppo/NumberLine-cot-lambda0.5-seed1/metrics.jsonl",
        "results/eval/ppo-Blackjack-nocot-lambda0.5-seed1/episodes.jsonl",
        "results/eval/solver-Points24/run.json",
        "results/cnn/Blackjack-seed1/checkpoint/cnn.json",
        "results/eval/cnn-Points24-seed1/summary.json",
        "results/tables/run.json",
        "results/figures/training_curves.run.json",
        "results/gallery/run.json",
        "results/sft/Points24-cot-seed1/checkpoint/config.json",
        "results/assets/games.png",
        "results/assets/perception.png",
        "results/assets/page.md",
    } <= files


def test_the_evaluations_of_kept_policies_are_expected() -> None:
    config = load_config([ROOT / "config" / "config.yaml"])
    config["ppo"]["defaults"]["keep_checkpoints"] = 1
    files = {path.as_posix() for path in expected_files(config)}
    assert "results/eval_kept/ppo-NumberLine-cot-lambda0.5-seed1/update0001/run.json" in files
    # The rules and the list above take the folder's name from one place.
    code = [*(ROOT / "rl4vlm").rglob("*.py"), *(ROOT / "workflow").rglob("*.smk")]
    found = [file for file in code if "eval_kept" in file.read_text(encoding="utf-8")]
    assert found == [ROOT / "rl4vlm" / "config" / "run_names.py"]


@pytest.mark.parametrize(
    ("overlays", "shown"),
    [
        ([], {"cot.csv", "cot_ablation.png"}),
        (["smoke.yaml"], {"cot.csv", "cot_ablation.png", "lambda.csv", "lambda_ablation.png"}),
        (["lambda.yaml"], {"lambda.csv", "lambda_ablation.png"}),
        (["ablations.yaml"], {"ablations.csv"}),
    ],
)
def test_tables_and_figures_of_runs_that_a_config_does_not_ask_for_are_not_expected(overlays, shown) -> None:
    config = load_config([ROOT / "config" / name for name in ("config.yaml", *overlays)])
    names = {path.name for path in expected_files(config)}
    depend = {"cot.csv", "cot_ablation.png", "lambda.csv", "lambda_ablation.png", "ablations.csv"}
    assert names & depend == shown


def test_only_published_results_write_what_git_tracks_and_each_seed_has_its_own_warm_start() -> None:
    config = ROOT / "config"
    seeds = {path.as_posix() for path in expected_files(load_config([config / "config.yaml", config / "seeds.yaml"]))}
    assert {"docs/assets/games.png", "docs/results.md"} <= seeds
    assert {f"results/seeds/sft/EZPoints-nocot-seed{seed}/metrics.jsonl" for seed in (1, 2, 3)} <= seeds
    published = {
        "seeds.yaml": "docs/results.md",
        "lambda.yaml": "docs/results-lambda.md",
        "points24.yaml": "docs/results-points24.md",
        "ablations.yaml": "docs/results-ablations.md",
    }
    for overlay in [file for file in config.glob("*.yaml") if file.name != "config.yaml"]:
        files = expected_files(load_config([config / "config.yaml", overlay]))
        pages = [path.as_posix() for path in files if path.parts[0] != "results" and path.parts[1] != "assets"]
        assert pages == [published[overlay.name]] if overlay.name in published else not pages, overlay


def test_the_weights_of_a_model_of_the_hub_may_be_in_several_files() -> None:
    config = load_config([ROOT / "config" / "config.yaml", ROOT / "config" / "paper.yaml"])
    revision = config["base_model"]["defaults"]["revision"]
    files = expected_files(config)
    folder = Path(f"results/paper/base_model/llava-hf--llava-v1.6-mistral-7b-hf@{revision}")
    assert {file for file in files if folder in file.parents} == {folder / "config.json", folder / "run.json"}

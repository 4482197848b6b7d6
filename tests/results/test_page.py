"""README's table and the page of all results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.core.files import RECORD, read_json
from rl4vlm.results.names import FIGURES, TABLES, asset_files, page_in
from rl4vlm.results.page import pages, readme_table
from rl4vlm.results.tables import build_tables
from tests.results.synthetic import Synthetic, add_evaluation, make_results, write_json


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """A results folder with tables, and two sets of ALFWorld games."""
    made = make_results(tmp_path_factory.mktemp("made") / "results", episodes=40, cnn=True)
    for method, kind in (("random", "scripted"), ("RL4VLM", "ppo")):
        for games, won in (("seen", 3), ("unseen", 1)):
            groups = {"Pick": {"successes": won, "episodes": 4}}
            extra: dict[str, Any] = {
                "overall": "alfworld_avg",
                "data_sources": ["generated"],
                "groups": groups,
                "games": games,
            }
            name = f"{kind}-ALFWorld" + ("" if games == "seen" else f"@{games}")
            add_evaluation(made, name, "ALFWorld", method, kind, won / 4, 4, **extra)
    machine = {"processor": "A Processor", "cores": 2, "gpus": ["A GPU"]}
    for place, folder in enumerate((*made.evaluations, *made.training_runs)):
        record: dict[str, Any] = (
            read_json(folder / RECORD) if (folder / RECORD).exists() else {"stage": "evaluation", "seeds": {}}
        )
        task = folder.name.partition("-")[2].partition("-")[0].partition("@")[0]
        known = {"episodes": 40} | ({"task": task} if record["stage"] == "evaluation" else {"total_env_steps": 8192})
        record["settings"] = known | record.get("settings", {})
        code = {"revision": "abcdef0123456789", "changed": place == 0}
        write_json(folder / RECORD, {**record, "code": code, "hardware": machine, "seconds": 36.0})
    write_json(made.root / "base_model" / "cards" / RECORD, {"stage": "base_model", "seconds": 3600.0})
    benchmark = made.root / "benchmarks" / "ppo" / "EZPoints-cot-lambda0.5-seed1.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\tmax_rss\tcpu_time\n36.0\t-\t600.0\n36.0\t1.0\t300.0\n")
    build_tables(**made.inputs, out=made.root / "tables", scale="embedded")
    return made


def test_readme_has_seven_methods_by_the_card_games_and_unseen_alfworld(made: Synthetic) -> None:
    lines = readme_table(made.root / "tables" / "main.csv", read_json(made.root / "tables" / RECORD)).splitlines()
    assert cells(lines[0]) == ["method", "NumberLine", "EZPoints", "Points24", "Blackjack", "ALFWorld (unseen games)"]
    rows = {row[0]: row[1:] for row in map(cells, lines[2:9])}
    assert list(rows) == [
        "random play",
        "ceiling (solver)",
        "CNN+RL",
        "LLaVA-sft",
        "RL4VLM without thoughts",
        "RL4VLM",
        "RL4VLM, published",
    ]
    assert rows["RL4VLM"][0].startswith("95.0 [")
    assert rows["RL4VLM"][4].startswith("25.0 ["), "1 of 4 unseen games, not 3 of 4 seen ones"
    assert rows["CNN+RL"][4] == "", "a method that was not run there has no rate"
    assert rows["RL4VLM, published"] == ["89.4", "50.0", "2.3", "40.2", "21.7"]
    assert "scale `embedded`, one training seed, held-out" in lines[-1]
    assert "Generated games are this project's, not the benchmark's" in lines[-1]


def test_readme_shows_the_set_that_most_methods_played_and_the_range_of_seeds(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    add_evaluation(made, "random-EZPoints@hard", "EZPoints", "random", "scripted", 0.1, 40, games="hard")
    for games, wins in (("usual", 30), ("hard", 10)):
        for seed in (1, 2) if games == "usual" else (1,):
            name = f"sft-EZPoints-seed{seed}" + ("" if games == "usual" else f"@{games}")
            add_evaluation(made, name, "EZPoints", "LLaVA-sft", "sft", wins / 40, 40, seed=seed, games=games)
    for method, kind, only in (("solver", "scripted", None), ("CNN+RL", "cnn", 1)):
        add_evaluation(made, f"{kind}-EZPoints", "EZPoints", method, kind, 0.5, 40, seed=only, games="usual")
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    lines = readme_table(tmp_path / "tables" / "main.csv", read_json(tmp_path / "tables" / RECORD)).splitlines()
    assert cells(lines[0])[2:] == ["EZPoints (usual games)", "Points24", "Blackjack", "ALFWorld"]
    assert next(row for row in map(cells, lines) if row[0] == "LLaVA-sft")[2].startswith("75.0 [")
    assert "scale `embedded`, 1 to 2 training seeds" in lines[-1]


def test_the_seeds_of_readme_are_those_of_the_methods_that_it_shows(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    for seed in (1, 2, 3):
        add_evaluation(made, f"sft-{seed}", "EZPoints", "LLaVA-sft", "sft", 0.5, 40, seed=seed)
    add_evaluation(made, "http-1", "EZPoints", "RL4VLM over HTTP", "http", 0.5, 40, seed=1)
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    table = readme_table(tmp_path / "tables" / "main.csv", read_json(tmp_path / "tables" / RECORD))
    assert "scale `embedded`, 3 training seeds" in table


def test_the_page_has_every_table_and_figure_and_what_made_them(made: Synthetic, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "assets"
    text = pages(tables=made.root / "tables", out=out, command="snakemake -j2")[tmp_path / "docs" / "results.md"]
    for name in [table for table in TABLES if table != "ablations"]:
        assert (made.root / "tables" / f"{name}.md").read_text(encoding="utf-8").strip() in text
    for name in FIGURES:
        assert f"(assets/{name}.png)" in text
    lines = {row[0]: row[1:] for row in map(cells, text.splitlines()) if len(row) == 9}
    assert lines["ppo EZPoints-cot λ 0.5"] == [
        "1", "1", "8192", "0.01", "0.25", "A GPU, A Processor, 2 cores", "abcdef0123",
        f"`{made.root}/ppo/EZPoints-cot-lambda0.5-seed1/run.json`",
    ]  # fmt: skip
    # A run without a benchmark file has no CPU time, and evaluations of a task are one experiment.
    assert lines["ppo NumberLine-cot λ 0.9"][4] == ""
    evaluations = [run for run in made.evaluations if "Points24" in run.name]
    assert lines["evaluation Points24"][0] == str(len(evaluations))
    assert "base_model" not in text, "it is in no record of these runs' inputs"
    assert f"Made by `snakemake -j2 -- {made.root}/figures/perception.png`." in text
    assert f"Made by `snakemake -j2 -- {made.root}/tables/differences.csv`." in text


def test_the_page_leaves_out_tables_and_figures_that_there_are_not(tmp_path: Path) -> None:
    made = make_results(tmp_path, tasks=["EZPoints"], episodes=10)
    for folder in made.evaluations:
        write_json(folder / RECORD, {"stage": "evaluation", "settings": {"task": "EZPoints"}})
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    text = pages(tables=tmp_path / "tables", out=tmp_path / "assets")[tmp_path / "assets" / "page.md"]
    assert "## Table: main results" in text
    assert not re.search("## Table: (weight|variants)|lambda_ablation", text)


def test_all_seeds_of_an_experiment_are_one_line_and_one_target(tmp_path: Path) -> None:
    made = make_results(tmp_path, tasks=["EZPoints"], styles=["cot"], seeds=(1, 2, 3), episodes=10)
    for folder in made.evaluations:
        write_json(folder / RECORD, {"stage": "evaluation", "settings": {"task": "EZPoints"}})
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    text = pages(tables=tmp_path / "tables", out=tmp_path / "assets")[tmp_path / "assets" / "page.md"]
    line = next(row for row in map(cells, text.splitlines()) if row[0] == "ppo EZPoints-cot λ 0.5")
    assert (line[1], line[2]) == ("3", "1; 2; 3")
    assert line[-1].endswith("/ppo/EZPoints-cot-lambda0.5-seed{1,2,3}/run.json`")


@pytest.mark.parametrize(
    ("edited", "place"), [({"seconds": "long"}, "seconds"), ({"hardware": {"gpus": None}}, "hardware.gpus")]
)
def test_a_record_that_was_edited_is_named(edited: dict[str, Any], place: str, tmp_path: Path) -> None:
    made = make_results(tmp_path, tasks=["EZPoints"], styles=["cot"], episodes=10)
    for folder in made.evaluations:
        write_json(folder / RECORD, {"stage": "evaluation", "settings": {"task": "EZPoints"}})
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    write_json(made.evaluations[0] / RECORD, {"stage": "evaluation", **edited})
    with pytest.raises(ValueError, match=f"{made.evaluations[0].name}/{RECORD}: '{place}'"):
        pages(tables=tmp_path / "tables", out=tmp_path / "assets")


def test_cpu_hours_of_some_runs_say_of_how_many(made: Synthetic, tmp_path: Path) -> None:
    evaluated = [run.name for run in made.evaluations if "EZPoints" in run.name]
    benchmark = made.root / "benchmarks" / "eval" / f"{evaluated[0]}.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\tcpu_time\n36.0\t1800.0\n")
    text = pages(tables=made.root / "tables", out=tmp_path / "assets")[tmp_path / "assets" / "page.md"]
    line = next(row for row in map(cells, text.splitlines()) if row[0] == "evaluation EZPoints")
    assert line[5] == f"0.50 (1 of {len(evaluated)} runs)"


def test_the_cpu_time_of_a_job_that_played_several_sets_of_games_is_that_of_all(
    made: Synthetic, tmp_path: Path
) -> None:
    played = [run.name for run in made.evaluations if "ALFWorld" in run.name]
    assert any("@" in name for name in played)
    for name in {name.partition("@")[0] for name in played}:
        benchmark = made.root / "benchmarks" / "eval" / f"{name}.tsv"
        benchmark.parent.mkdir(parents=True, exist_ok=True)
        benchmark.write_text("s\tcpu_time\n36.0\t1800.0\n")
    text = pages(tables=made.root / "tables", out=tmp_path / "assets")[tmp_path / "assets" / "page.md"]
    line = next(row for row in map(cells, text.splitlines()) if row[0] == "evaluation ALFWorld")
    assert line[5] == f"{0.5 * len({name.partition('@')[0] for name in played}):.2f}"


def test_other_scales_write_into_their_own_folder(made: Synthetic, tmp_path: Path) -> None:
    out = Path("results/smoke/assets")
    found = pages(tables=made.root / "tables", out=out)
    assert set(found) == {out / "results.md", out / "page.md"}
    assert "(./training_curves.png)" in found[out / "page.md"]
    assert page_in(Path("docs/assets")) == Path("docs/results.md")
    assert page_in(Path("docs/assets/lambda")) == Path("docs/results-lambda.md")
    assert {file.parent for file in asset_files(Path("results/smoke/assets"))} == {Path("results/smoke/assets")}


def test_a_missing_record_is_named(made: Synthetic, tmp_path: Path) -> None:
    (tmp_path / "main.csv").write_bytes((made.root / "tables" / "main.csv").read_bytes())
    record = read_json(made.root / "tables" / RECORD)
    record |= {"inputs": {"x": {"path": "results/eval/nowhere/summary.json"}}, "outputs": {}}
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"nowhere.run\.json is missing"):
        pages(tables=tmp_path, out=tmp_path / "assets")

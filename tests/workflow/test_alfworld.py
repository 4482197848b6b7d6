"""Every stage on ALFWorld, on generated games: config/alfworld.yaml over the smoke config."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from tests.workflow.conftest import Job, Workspace

pytestmark = pytest.mark.system

OVERLAYS = ("--configfile", "config/smoke.yaml", "config/alfworld.yaml")


def test_the_games_are_made_first_and_each_policy_is_evaluated_on_both_sets(workspace: Workspace) -> None:
    jobs = workspace.planned(*OVERLAYS)
    assert jobs.count(Job("alfworld_games")) == 1
    rules = [job.rule for job in jobs]
    counts = {rule: rules.count(rule) for rule in ("sft_data", "sft", "ppo", "cnn")}
    assert counts == {"sft_data": 2, "sft": 2, "ppo": 2, "cnn": 1}
    evaluated = {rule: rules.count(rule) for rule in rules if rule.startswith("evaluate_")}
    # A checkpoint plays both in one process.
    both = {"evaluate_sft_also_unseen": 2, "evaluate_ppo_also_unseen": 2, "evaluate_cnn_also_unseen": 1}
    assert evaluated == {"evaluate_scripted": 4, **both}
    done = workspace.snakemake("--dry-run", "-p", *OVERLAYS, "--until", "evaluate_cnn_also_unseen")
    (command,) = re.findall(r"^Shell command: (.*rl4vlm evaluate .*)$", done.stdout, re.MULTILINE)
    first, further = command.split(" --also unseen ")
    assert "--out results/alfworld/eval/cnn-ALFWorld-seed1 " in first
    assert re.findall("valid_[a-z]+", first) == ["valid_seen"]
    assert re.findall("valid_[a-z]+", further) == ["valid_unseen"]


def test_the_games_lie_with_the_results_wherever_those_are(workspace: Workspace) -> None:
    done = workspace.snakemake("--dry-run", "-p", *OVERLAYS, "--config", "results_dir=elsewhere")
    assert "rl4vlm alfworld-games --out elsewhere/alfworld_games " in done.stdout
    assert '"data": "elsewhere/alfworld_games"' in done.stdout
    assert "{results_dir}" not in done.stdout


def test_without_the_task_no_games_are_made(workspace: Workspace) -> None:
    assert "alfworld_games" not in [job.rule for job in workspace.planned("--config", "tasks=[NumberLine]")]


def test_a_model_behind_an_endpoint_plays_both_sets(workspace: Workspace) -> None:
    (workspace.folder / "api.yaml").write_text(
        "tasks: [ALFWorld]\napi_models: {mine: {base_url: http://localhost/v1, model: m}}\n"
    )
    done = workspace.snakemake("--dry-run", "-p", "--configfile", "api.yaml", "--until", "evaluate_api")
    found = re.findall(r"evaluate api:mine ALFWorld .* --out (\S+) .*\"split\": \"(\w+)\"", done.stdout)
    folder = "results/eval/api-mine-ALFWorld"
    assert sorted(found) == [(folder, "valid_seen"), (f"{folder}@unseen", "valid_unseen")]


@pytest.mark.long
class TestRun:
    @pytest.fixture(scope="class")
    def results(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        space = Workspace(tmp_path_factory.mktemp("alfworld"))
        done = space.snakemake(*OVERLAYS, profile="profiles/default")
        assert done.returncode == 0, done.stdout + done.stderr
        return space.folder / "results" / "alfworld"

    def test_it_was_trained_and_evaluated_on_seen_and_unseen_games(self, results: Path) -> None:
        policies = ["random-ALFWorld", "solver-ALFWorld", "sft-ALFWorld-cot-seed1", "sft-ALFWorld-nocot-seed1"]
        policies += [f"ppo-ALFWorld-{style}-lambda0.5-seed1" for style in ("cot", "nocot")]
        policies += ["cnn-ALFWorld-seed1"]
        wanted = {f"{policy}{games}" for policy in policies for games in ("", "@unseen")}
        assert {folder.name for folder in (results / "eval").iterdir()} == wanted
        for run in wanted:
            summary = json.loads((results / "eval" / run / "summary.json").read_text())
            assert summary["data_sources"] == ["generated"]
            assert summary["games"] == ("unseen" if "@" in run else "seen")
            assert list(summary["groups"]) == ["Pick", "Look", "Clean", "Heat", "Cool", "Pick2"]
            files = (results / "eval" / run / "run.json").read_text()
            assert ("valid_unseen" in files) == ("@" in run)
            if run.startswith("solver"):
                assert summary["success_rate"] == 100.0

    def test_demonstrations_are_the_experts(self, results: Path) -> None:
        samples = json.loads((results / "sft_data" / "ALFWorld-cot" / "data.json").read_text())
        question, answer = (turn["value"] for turn in samples[0]["conversations"])
        assert "Your task: " in question
        assert '{"thoughts": "I am at ' in answer

    def test_tables_say_which_games_and_never_show_them_as_the_papers(self, results: Path) -> None:
        with (results / "tables" / "main.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        solver = [row for row in rows if row["method"] == "solver" and row["task"] == "alfworld_avg"]
        assert {row["scale"] for row in solver} == {"smoke, generated games, seen", "smoke, generated games, unseen"}
        assert {row["source"] for row in rows if row["scale"] == "paper"} == {"published"}

    def test_the_gallery_replays_the_games(self, results: Path) -> None:
        assert "Your task: " in (results / "gallery" / "index.html").read_text(encoding="utf-8")

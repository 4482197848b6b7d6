"""The command line: light, and plain about what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rl4vlm.cli import main
from rl4vlm.tasks import registry
from rl4vlm.tasks.number_line import NumberLine

STAGES = [
    "tasks",
    "base-model",
    "sft-data",
    "sft",
    "ppo",
    "cnn",
    "memory",
    "alfworld-games",
    "evaluate",
    "play",
    "gallery",
    "tables",
    "figure",
    "readme-assets",
    "check-results",
    "archive",
    "export",
    "verify-archive",
    "settings-docs",
]


def test_help_lists_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    listed = re.findall(r"^    ([a-z-]+)(?: |$)", capsys.readouterr().out, flags=re.MULTILINE)
    assert set(STAGES) == set(listed)


def test_a_broken_task_is_listed_with_its_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("Fall", "no_such_package:Fall", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    assert main(["tasks"]) == 0
    *others, last = capsys.readouterr().out.splitlines()
    assert any(line.startswith("NumberLine") for line in others)
    assert re.match(r"Fall +- +- +- task 'Fall' cannot be loaded from no_such_package:Fall", last)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_help(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([stage, "--help"])
    assert f"rl4vlm {stage}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["tasks"],
        ["sft-data", "--task", "Blackjack", "--out", "data", "--set", "samples=2"],
        ["evaluate", "solver", "EZPoints", "--out", "evaluation", "--set", "episodes=2"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_stages_without_a_model_load_no_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        f"import sys; from rl4vlm.cli import main; code = main({arguments!r}); sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["evaluate", "random", "NumberLime"], "NumberLime"),
        (["evaluate", "no/such/folder", "NumberLine"], "no/such/folder"),
        (["evaluate", "random", "NumberLine", "--set", "episode=5"], "episode"),
        (["evaluate", "random", "NumberLine", "--set", "episodes=many"], "many"),
        (["evaluate", "random", "NumberLine", "--set", "episodes"], "episodes"),
        (["sft-data", "--task", "NumberLine", "--out", "x", "--set", "samples=0"], "samples"),
        (["sft", "--data", "no-data", "--init", "no-model", "--out", "x"], "no-data"),
        (["ppo", "--task", "NumberLine", "--init", "not/a/folder", "--out", "x"], "not/a/folder"),
        (["cnn", "--task", "NumberLime", "--out", "x"], "NumberLime"),
        (["cnn", "--task", "NumberLine", "--out", "x", "--set", "sizes.image_size=20"], "image_size 20"),
        (["base-model", "--copy", "no-model", "--out", "x"], "no-model"),
        (["base-model", "--revision", "main", "--out", "x"], "--revision is of a model"),
        (["memory", "--config", "no-file", "--set", "num_envs=1"], "--set is for one model"),
        (["memory", "--sft-per-second", "1"], "--sft-per-second is for the hours"),
        (["figure", "no_figure", "--evaluations", "--ppo-runs", "--out", "x"], "no_figure"),
        (["tables", "--results", "no-results", "--out", "x"], "no-results"),
        (["readme-assets", "--figures", "no-figures", "--tables", "no-tables", "--out", "x"], "no-tables"),
    ],
)
def test_wrong_input_is_one_clear_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"rl4vlm {arguments[0]}: error: ")
    assert named in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ppo", "--task", "NumberLine", "--init", "x", "--out", "y", "--seed", "-1"], "--seed: -1 is below 0"),
        (["play", "NumberLine", "--seed", "-1"], "--seed: -1 is below 0"),
        (["alfworld-games", "--out", "y", "--processes", "0"], "--processes: 0 is below 1"),
        (["memory", "--config", "x", "--played-per-second", "0"], "--played-per-second: 0 is no finite number above 0"),
        (["memory", "--config", "x", "--sft-per-second", "nan"], "--sft-per-second: nan is no finite number above 0"),
    ],
)
def test_a_number_out_of_range_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["ppo", "sft"])
def test_a_full_gpu_says_what_to_lower(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from rl4vlm.training.distributed import Processes

    def fill(**_: object) -> None:
        crew = Processes.__new__(Processes)
        crew.count, crew.rank, crew.timeout = 2, 1, 5.0
        with crew.named():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(f"rl4vlm.{stage}.train.run", fill)
    what = {"ppo": ["--task", "NumberLine"], "sft": ["--data", "x"]}[stage]
    arguments = [stage, *what, "--init", "x", "--out", str(tmp_path)]
    assert main(arguments) == 4
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        f"rl4vlm {stage}: out of memory: CUDA out of memory. Tried to allocate 2.00 GiB.; in process 1"
    )
    for word in ("micro_batch_size", "gradient_checkpointing", "rl4vlm memory"):
        assert word in line
    assert ("lower num_envs" in line) == (stage == "ppo")
    monkeypatch.setenv("RL4VLM_TRACEBACK", "1")
    with pytest.raises(torch.OutOfMemoryError):
        main(arguments)


def test_evaluate_writes_beside_where_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "solver", "NumberLine", "--set", "episodes=3"]) == 0
    summary = json.loads((tmp_path / "evaluation" / "solver-NumberLine" / "summary.json").read_text())
    assert summary["successes"] == 3
    assert "solver on NumberLine: 100.0 % of 3 episodes" in capsys.readouterr().out
    monkeypatch.setattr(NumberLine, "data_source", lambda *_: "generated")
    assert main(["evaluate", "solver", "NumberLine", "--set", "episodes=3", "games=seen"]) == 0
    assert "solver on NumberLine (generated games, seen): 100.0 % of 3 episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "planned"), [([], "of 9 episodes"), (["each_game_once=true"], "of at most 9 episodes")]
)
def test_a_partial_result_says_how_many_episodes_were_planned(
    words: list[str], planned: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"method": "M", "success_rate": 50, "episodes": 4, "ci_low": 15, "ci_high": 85, "partial": True}
    monkeypatch.setattr("rl4vlm.evaluation.run.run_sets", lambda **_: [{**found, "stopped": "the cap is reached"}])
    assert main(["evaluate", "random", "ALFWorld", "--set", "episodes=9", *words]) == 0
    assert f"This is a partial result, {planned}: the cap is reached." in capsys.readouterr().out


@pytest.mark.parametrize("earlier", [False, True])
def test_a_policy_that_does_not_know_the_task_leaves_nothing_behind(
    earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "evaluation" / "stand17-NumberLine"
    if earlier:
        assert main(["evaluate", "random", "NumberLine", "--out", str(folder), "--set", "episodes=3"]) == 0
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert main(["evaluate", "stand17", "NumberLine", "--set", "episodes=3"]) == 2
    assert "policy 'stand17' plays Blackjack only" in capsys.readouterr().err
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_evaluate_takes_a_checkpoint_of_ones_own(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["episodes=2", "max_new_tokens=3", "device=cpu"]
    assert main(["evaluate", str(tiny_checkpoint), "Blackjack", "--set", *settings]) == 0
    (written,) = (tmp_path / "evaluation").iterdir()
    summary = json.loads((written / "summary.json").read_text())
    assert (summary["kind"], summary["episodes"], summary["policy"]) == ("checkpoint", 2, str(tiny_checkpoint))


def test_check_results_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").symlink_to(Path(__file__).parents[1] / "config")
    monkeypatch.chdir(tmp_path)
    assert main(["check-results"]) == 2
    assert "results/tables/main.csv: missing" in capsys.readouterr().out.splitlines()


def test_further_sets_of_games_are_evaluated_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--set", "episodes=2", "seed_base=5", "--also", "far", "games=far", "seed_base=50"]
    assert main(["evaluate", "random", "NumberLine", "--out", "a", *words]) == 0
    assert capsys.readouterr().out.count("of 2 episodes won") == 2
    summaries = [json.loads((tmp_path / folder / "summary.json").read_text()) for folder in ("a", "a@far")]
    assert [summary["seeds"] for summary in summaries] == [[5, 6], [50, 51]]
    assert [summary.get("games") for summary in summaries] == [None, "far"]

"""`evaluate` and `play` let a checkpoint play as it was trained, unless the command line says otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.cli import build_parser
from rl4vlm.cli.options import WORKFLOW_CONFIG, config_of
from rl4vlm.cli.played import played_settings, played_style, policy_label
from rl4vlm.config.load import load_config
from rl4vlm.config.overrides import parse_settings
from rl4vlm.config.stages.evaluation import EvaluationSettings, PlaySettings
from rl4vlm.core.types import Style
from tests.launch import ROOT

PPO = {"task": "NumberLine", "style": "nocot", "temperature": 0.4, "max_new_tokens": 9, "gamma": 0.9}


def checkpoint(folder: Path, stage: str, settings: dict[str, Any]) -> str:
    (folder / "checkpoint").mkdir()
    (folder / "run.json").write_text(json.dumps({"stage": stage, "settings": settings}))
    return str(folder / "checkpoint")


@pytest.mark.parametrize("prefix", ["", "served:", "vlm:"])
def test_of_ppo_it_takes_style_and_sampling(prefix: str, tmp_path: Path) -> None:
    policy = prefix + checkpoint(tmp_path, "ppo", PPO)
    args = build_parser().parse_args(["evaluate", policy, "NumberLine", "--set", "temperature=0.1"])
    assert played_style(args) is Style.ACTION_ONLY
    assert played_settings(EvaluationSettings, args) == ["temperature=0.4", "max_new_tokens=9", "temperature=0.1"]


def test_files_of_config_are_laid_over_the_workflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("api_models: {mine: {base_url: 'http://127.0.0.1:9/v1', model: m, episodes: 7}}\n")
    args = build_parser().parse_args(["evaluate", "api:mine", "Blackjack", "--config", str(own)])
    monkeypatch.chdir(ROOT)
    assert {"episodes=7", "seed_base=2000000000"} <= set(played_settings(EvaluationSettings, args))
    # Outside the project's folder, the file has to say everything.
    monkeypatch.chdir(tmp_path)
    own.write_text(f"{own.read_text()}results_dir: results\nevaluation: {{defaults: {{seed_base: 5}}}}\n")
    assert {"episodes=7", "seed_base=5"} <= set(played_settings(EvaluationSettings, args))


def test_the_help_says_which_config_is_read_without_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["evaluate", "--help"])
    assert f"over {WORKFLOW_CONFIG} if there is one (default: that file alone;" in " ".join(
        capsys.readouterr().out.split()
    )


def test_no_config_is_read_if_its_option_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert config_of([]) == {}
    assert config_of(None) == load_config([WORKFLOW_CONFIG])


def test_options_of_its_task_are_for_that_task_alone(tmp_path: Path) -> None:
    policy = checkpoint(tmp_path, "ppo", {"task": "ALFWorld", "temperature": 0.4, "env": {"split": "train"}})
    args = build_parser().parse_args(["evaluate", policy, "NumberLine"])
    assert played_settings(EvaluationSettings, args) == ["temperature=0.4"]
    args = build_parser().parse_args(["play", "ALFWorld", "--policy", policy])
    assert played_settings(PlaySettings, args) == ["temperature=0.4", 'env={"split": "train"}']


@pytest.mark.parametrize(
    ("words", "split"), [([], "valid_seen"), (["env.data=a"], "valid_seen"), (["env.split=train"], "train")]
)
@pytest.mark.parametrize("stage", ["sft", "ppo", None])
def test_an_evaluation_plays_none_of_the_training_games(
    stage: str | None, words: list[str], split: str, tmp_path: Path
) -> None:
    env = {"split": "train", "data": "games"}
    policy = checkpoint(tmp_path, stage, {"task": "ALFWorld", "env": env}) if stage else "random"
    args = build_parser().parse_args(["evaluate", policy, "ALFWorld", "--set", "episodes=9", *words])
    found = parse_settings(EvaluationSettings, played_settings(EvaluationSettings, args))
    assert found.env["split"] == split


@pytest.mark.parametrize(
    ("stage", "settings", "style"),
    [
        ("sft", {"style": "nocot"}, Style.ACTION_ONLY),
        ("sft", {}, Style.COT),  # of ready demonstrations, which do not say
        ("cnn", {}, Style.ACTION_ONLY),
    ],
)
def test_other_trainings_say_their_style(stage: str, settings: dict[str, Any], style: Style, tmp_path: Path) -> None:
    policy = checkpoint(tmp_path, stage, settings)
    assert played_style(build_parser().parse_args(["evaluate", policy, "NumberLine"])) is style
    asked = build_parser().parse_args(["evaluate", policy, "NumberLine", "--style", "cot"])
    assert played_style(asked) is Style.COT


def test_a_cnn_that_is_named_as_one_writes_actions_alone(tmp_path: Path) -> None:
    policy = f"cnn:{checkpoint(tmp_path, 'cnn', {'temperature': 0.4})}"
    args = build_parser().parse_args(["evaluate", policy, "NumberLine"])
    assert played_style(args) is Style.ACTION_ONLY
    assert played_settings(EvaluationSettings, args) == ["temperature=0.4"]


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ("random", "random"),
        ("results/ppo/A/checkpoint", "A"),
        ("served:results/ppo/A/checkpoint", "served-A"),
        ("results/ppo/A/checkpoints/update0010", "A-update0010"),
        ("api:gpt", "api-gpt"),
        ("owner/model", "model"),
    ],
)
def test_every_policy_has_an_output_folder_of_its_own(policy: str, name: str) -> None:
    assert policy_label(policy) == name


def test_a_policy_in_the_working_folder_is_named_by_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "A" / "checkpoint"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert (policy_label("."), policy_label("served:."), policy_label("..")) == ("A", "served-A", "A")


def test_a_kept_policy_plays_as_its_run_was_trained(tmp_path: Path) -> None:
    checkpoint(tmp_path, "ppo", PPO)
    kept = tmp_path / "checkpoints" / "best"
    kept.mkdir(parents=True)
    assert played_style(build_parser().parse_args(["evaluate", str(kept), "NumberLine"])) is Style.ACTION_ONLY

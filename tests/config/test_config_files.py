"""Every config file loads, is valid, and turns into the settings that its stages take."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from rl4vlm.config.base_models import base_models
from rl4vlm.config.load import (
    TASK_OPTIONS,
    check_processes,
    check_tasks,
    evaluation_settings,
    load_config,
    merge,
    stage_settings,
)
from rl4vlm.config.runs import ablation_runs, main_runs
from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.cnn import CNNSettings
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.config.stages.pretrain import PretrainSettings
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.figures.style import FigureStyle
from rl4vlm.tasks.registry import task_names

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
STAGES: dict[str, type[Any]] = {
    "base_model": PretrainSettings,
    "sft_data": SFTDataSettings,
    "sft": SFTSettings,
    "ppo": PPOSettings,
    "cnn": CNNSettings,
    "evaluation": EvaluationSettings,
}


def resolved(path: Path) -> dict[str, Any]:
    """A config as the workflow sees it: over the default one."""
    return load_config([ROOT / "config" / "config.yaml", path])


def test_there_are_four_config_files() -> None:
    assert [path.name for path in CONFIGS] == ["alfworld.yaml", "config.yaml", "paper.yaml", "smoke.yaml"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
class TestEveryConfig:
    def test_is_valid(self, path: Path) -> None:
        config = resolved(path)
        validate(config, str(SCHEMA))
        check_tasks(config, task_names())
        check_processes(config)

    def test_gives_every_stage_its_settings_for_every_task(self, path: Path) -> None:
        config = resolved(path)
        for stage, kind in STAGES.items():
            for task in config["tasks"] if stage != "base_model" else []:
                build_settings(kind, stage_settings(config, stage, task))
                build_settings(EvaluationSettings, evaluation_settings(config, task))
        for model in base_models(config).values():
            build_settings(PretrainSettings, model.settings)
        build_settings(FigureStyle, config["figures"]["style"])
        build_settings(GamesSettings, config["alfworld"]["generate"])

    def test_trains_every_task_with_every_style_and_the_ablation(self, path: Path) -> None:
        config = resolved(path)
        assert {(run.task, run.style) for run in main_runs(config)} == {
            (task, style) for task in config["tasks"] for style in config["styles"]
        }
        swept = {task: set(values) for task, values in config["ablations"]["lambda"].items() if task in config["tasks"]}
        for task, values in swept.items():
            assert {run.lam for run in ablation_runs(config) if run.task == task} >= values


@pytest.mark.parametrize(
    ("section", "kind"),
    [*STAGES.items(), ("alfworld_games", GamesSettings), ("figure_style", FigureStyle), ("gallery", GallerySettings)],
)
def test_the_schema_knows_every_setting(section: str, kind: type[Any]) -> None:
    schema = yaml.safe_load(SCHEMA.read_text())
    shared = {field.name for field in fields(kind)} & set(schema["$defs"]["task_options"]["properties"])
    assert shared == set(TASK_OPTIONS.get(section, ()))
    assert set(schema["$defs"][section]["properties"]) | shared == {field.name for field in fields(kind)}
    assert not set(schema["$defs"][section]["properties"]) & shared, "task_options alone sets these"


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ((), "result_dir"),
        (("ppo", "defaults"), "learning_rat"),
        (("ppo", "per_task"), None),
        (("ppo", "defaults"), "prompt"),
        (("task_options", "defaults"), "promt"),
        (("resources", "ppo"), "gpus"),
        (("figures", "style"), "color"),
    ],
)
def test_a_stray_key_is_refused(place: tuple[str, ...], key: str | None) -> None:
    config = resolved(CONFIGS[0])
    section = config
    for name in place:
        section = section[name]
    section.update({key: 1} if key else {"Blackjack": {"lambda": 1}})
    with pytest.raises(WorkflowError, match=key or "lambda"):
        validate(config, str(SCHEMA))


@pytest.mark.parametrize("place", ["tasks", "ppo.per_task", "ablations.lambda", "cnn.skip"])
def test_an_unknown_task_is_named(place: str) -> None:
    config = deepcopy(resolved(CONFIGS[0]))
    if place == "tasks":
        config["tasks"] = ["NumberLime"]
    elif place == "cnn.skip":
        config["cnn"]["skip"] = ["NumberLime"]
    else:
        above, below = place.split(".")
        config[above][below]["NumberLime"] = {}
    with pytest.raises(ValueError, match=rf"{place}: unknown task 'NumberLime'"):
        check_tasks(config, task_names())


PAPER = ROOT / "config" / "paper.yaml"


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        (
            {"resources": {"ppo": {"gpu": 4, "processes": 4}}},
            r"ppo: num_envs is 2 for NumberLine and resources\.ppo\.processes 4; .*ppo\.per_task\.NumberLine\.num_envs",
        ),
        (
            {"resources": {"ppo": {"gpu": 2, "processes": 2}}},
            r"envs is 1 for ALFWorld and resources\.ppo\.processes 2",
        ),
        ({"resources": {"ppo": {"gpu": 4}}}, r"resources\.ppo: gpu is 4 and processes 1; each process takes one GPU"),
        ({"resources": {"sft": {"gpu": 1, "processes": 2}}}, r"resources\.sft: gpu is 1 and processes 2"),
        ({"resources": {"cnn": {"processes": 2}}}, r"resources\.cnn\.processes: only sft and ppo"),
    ],
)
def test_processes_that_could_not_work_are_named(overlay: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_processes(merge(resolved(PAPER), overlay))


def test_processes_need_no_gpu() -> None:
    check_processes(merge(resolved(ROOT / "config/smoke.yaml"), {"resources": {"ppo": {"processes": 2}}}))


@pytest.mark.parametrize("word", ["processes:", "gradient_checkpointing:"])
def test_the_guides_overlays_fit_the_papers_config(word: str) -> None:
    text = (ROOT / "docs" / "cluster.md").read_text()
    (example,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if word in block)
    config = merge(resolved(PAPER), yaml.safe_load(example))
    validate(config, str(SCHEMA))
    check_processes(config)
    assert all(stage_settings(config, "ppo", task)["num_envs"] >= 4 for task in config["tasks"])
    for task in config["tasks"]:
        build_settings(PPOSettings, stage_settings(config, "ppo", task))


def test_smoke_stays_small_whatever_the_default_says_of_single_games() -> None:
    config = resolved(ROOT / "config" / "smoke.yaml")
    for task in config["tasks"]:
        assert stage_settings(config, "sft_data", task)["samples"] <= 16
        assert stage_settings(config, "ppo", task)["total_env_steps"] <= 32
        assert stage_settings(config, "evaluation", task)["episodes"] <= 4
        assert stage_settings(config, "cnn", task)["total_env_steps"] <= 32


class TestPaperConfig:
    """The paper's scale keeps nothing of the embedded one, and holds the paper's numbers."""

    OURS = frozenset({"seed", "device", "loggers", "seed_base"})
    """Settings that do not depend on the scale."""

    def test_no_embedded_setting_shines_through(self) -> None:
        default, paper = (
            yaml.safe_load((ROOT / "config" / name).read_text()) for name in ("config.yaml", "paper.yaml")
        )
        for stage in ("sft_data", "sft", "ppo", "cnn", "evaluation"):
            assert set(default[stage]["defaults"]) - set(paper[stage]["defaults"]) <= self.OURS, stage
            for task, settings in (default[stage]["per_task"] or {}).items():
                left = set(settings) - set((paper[stage]["per_task"] or {}).get(task, {}))
                assert not left, f"{stage}.per_task.{task}: config.yaml sets {left}, so paper.yaml must set it too"

    @pytest.mark.parametrize(
        ("task", "rollout", "window"),
        [("NumberLine", 512, 200), ("EZPoints", 1024, 200), ("Points24", 1024, 200), ("Blackjack", 512, 1000)],
    )
    def test_ppo_is_the_papers(self, task: str, rollout: int, window: int) -> None:
        settings = build_settings(PPOSettings, stage_settings(resolved(ROOT / "config/paper.yaml"), "ppo", task))
        processes = 2
        assert settings.num_envs == processes
        assert settings.total_env_steps == 15_000 * processes
        assert settings.num_steps == rollout * processes
        assert settings.minibatch_size == 128 * processes
        assert settings.success_window == window
        assert (settings.learning_rate, settings.final_learning_rate, settings.adam_epsilon) == (1e-5, 1e-9, 1e-7)
        assert (settings.gamma, settings.gae_lambda, settings.clip_range, settings.ppo_epochs) == (0.9, 0.95, 0.1, 4)
        assert (settings.temperature, settings.max_new_tokens, settings.thought_prob_coef) == (0.2, 256, 0.5)
        assert (settings.ent_coef, settings.max_grad_norm, settings.vf_coef) == (0.0, None, 0.5)
        assert settings.value_sizes == (1024, 512)
        assert settings.lora == LoraSettings(rank=128, alpha=256, targets="all-linear")
        assert settings.one_view

    def test_ppo_of_alfworld_is_the_papers(self) -> None:
        config = resolved(ROOT / "config/paper.yaml")
        settings = build_settings(PPOSettings, stage_settings(config, "ppo", "ALFWorld"))
        assert (settings.num_envs, settings.total_env_steps, settings.num_steps) == (1, 5 * 1024, 1024)
        assert (settings.minibatch_size, settings.success_window, settings.thought_prob_coef) == (256, 200, 0.2)
        assert (settings.max_new_tokens, settings.temperature) == (256, 0.2)
        # Where the games are is the machine's to say, by ALFWORLD_DATA; unsolvable ones are passed over, as there.
        assert settings.env == {"data": None, "split": "train", "backend": "thor", "skip_bad_games": True}
        splits = [evaluation_settings(config, "ALFWorld", games)["env"]["split"] for games in ("", "unseen")]
        assert splits == ["valid_seen", "valid_unseen"]

    def test_sft_is_the_papers(self) -> None:
        settings = build_settings(
            SFTSettings, stage_settings(resolved(ROOT / "config/paper.yaml"), "sft", "NumberLine")
        )
        assert (settings.epochs, settings.batch_size, settings.learning_rate) == (1, 64, 2e-5)
        assert (settings.warmup, settings.weight_decay, settings.max_length) == (0.03, 0.0, 2048)
        assert (settings.lora, settings.one_view) == (None, True)


def test_snakemake_merges_overlays_as_load_config_does() -> None:
    from snakemake.utils import update_config

    default, smoke = load_config([ROOT / "config" / "config.yaml"]), load_config([ROOT / "config" / "smoke.yaml"])
    theirs = deepcopy(default)
    update_config(theirs, smoke)
    assert theirs == merge(default, smoke)

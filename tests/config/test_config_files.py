"""Every config file loads, is valid, and turns into the settings that its stages take."""

from __future__ import annotations

import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl4vlm.config.base_models import base_models
from rl4vlm.config.check import checked_config
from rl4vlm.config.load import evaluation_settings, load_config, merge, stage_settings
from rl4vlm.config.runs import ablation_runs, evaluation_runs, main_runs
from rl4vlm.config.schema import STAGES
from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.ppo import DefectSettings, PPOSettings
from rl4vlm.config.stages.pretrain import PretrainSettings
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.figures.style import FigureStyle
from rl4vlm.interaction.options import options_of
from rl4vlm.tasks.registry import task_names

ROOT = Path(__file__).parents[2]
FILES = ROOT / "config"
OVERLAYS: dict[str, list[str]] = {
    "default": [],
    "seeds": ["seeds"],
    "lambda": ["lambda"],
    "ablations": ["ablations"],
    "points24": ["points24"],
    "pretrain": ["pretrain"],
    "smoke": ["smoke"],
    "alfworld": ["alfworld"],
    "paper": ["paper"],
    "paper-fast": ["paper", "paper-fast"],
    "paper-alfworld": ["paper", "alfworld"],
}


def resolved(name: str) -> dict[str, Any]:
    """A config as the workflow sees it; each caller has one of its own."""
    return deepcopy(_resolved(name))


@cache
def _resolved(name: str) -> dict[str, Any]:
    config = load_config([FILES / "config.yaml", *(FILES / f"{overlay}.yaml" for overlay in OVERLAYS[name])])
    return checked_config(config, task_names(), options_of)


def laid_over(name: str, overlay: dict[str, Any]) -> dict[str, Any]:
    return checked_config(merge(resolved(name), overlay), task_names(), options_of)


def test_every_file_is_tested() -> None:
    named = {"config", *(overlay for overlays in OVERLAYS.values() for overlay in overlays)}
    assert {path.stem for path in FILES.glob("*.yaml")} == named
    scales = {resolved(name)["scale"] for name in OVERLAYS}
    assert {path.stem for path in (FILES / "scales").glob("*.yaml")} == scales == {"embedded", "paper"}


@pytest.mark.parametrize("name", OVERLAYS)
class TestEveryConfig:
    def test_gives_every_stage_its_settings_for_every_task(self, name: str) -> None:
        config = resolved(name)
        for stage, kind in STAGES.items():
            for task in config["tasks"]:
                build_settings(kind, stage_settings(config, stage, task))
        for task in config["tasks"]:
            build_settings(STAGES["evaluation"], evaluation_settings(config, task))
        for model in base_models(config).values():
            build_settings(PretrainSettings, model.settings)
        build_settings(FigureStyle, config["figures"]["style"])
        build_settings(GamesSettings, config["alfworld"]["generate"])

    def test_trains_every_task_with_every_style_and_the_ablation(self, name: str) -> None:
        config = resolved(name)
        assert {(run.task, run.style) for run in main_runs(config)} == {
            (task, style) for task in config["tasks"] for style in config["styles"]
        }
        lambdas = (config["ablations"] or {}).get("lambda", {})
        swept = {task: set(values) for task, values in lambdas.items() if task in config["tasks"]}
        for task, values in swept.items():
            assert {run.thought_prob_coef for run in ablation_runs(config) if run.task == task} >= values

    def test_checking_it_again_changes_nothing(self, name: str) -> None:
        config = resolved(name)
        assert checked_config(deepcopy(config), task_names(), options_of) == config


def test_results_are_labelled_by_what_made_them() -> None:
    labels = {name: resolved(name)["label"] for name in OVERLAYS}
    assert labels == {
        "default": "embedded",
        "seeds": "embedded-seeds",
        "lambda": "embedded-lambda",
        "ablations": "embedded-ablations",
        "points24": "embedded-points24",
        "pretrain": "pretrain",
        "smoke": "smoke",
        "alfworld": "embedded",
        "paper": "paper",
        "paper-fast": "paper-fast",
        "paper-alfworld": "paper",
    }
    folders = [resolved(name)["results_dir"] for name in ("default", "smoke", "paper", "paper-fast")]
    assert folders == ["results", "results/smoke", "results/paper", "results/paper-fast"]


def test_defects_are_on_in_variants_alone() -> None:
    for name in OVERLAYS:
        config = resolved(name)
        for task in config["tasks"]:
            settings = build_settings(PPOSettings, stage_settings(config, "ppo", task))
            assert (settings.defects, settings.normalise_advantages) == (DefectSettings(), True)


def test_the_lambda_overlay_varies_the_wording_of_both_games() -> None:
    config = resolved("lambda")
    assert {stage_settings(config, "sft_data", task)["wording"] for task in config["tasks"]} == {"varied"}
    runs = ablation_runs(config)
    assert len(runs) == len({run.name for run in runs}) == 2 * 7 * 3


@pytest.mark.parametrize("word", ["processes: 4", "nodes:", "gradient_checkpointing:"])
@pytest.mark.parametrize("name", ["paper", "paper-fast"])
def test_the_guides_overlays_fit_the_papers_config(name: str, word: str) -> None:
    text = (ROOT / "docs" / "cluster.md").read_text()
    (example,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if word in block)
    laid_over(name, yaml.safe_load(example))


@pytest.mark.parametrize("name", ["default", "paper"])
def test_every_training_is_validated_before_its_end_too(name: str) -> None:
    config = resolved(name)
    for stage in ("ppo", "cnn"):
        for task in config["tasks"]:
            settings = build_settings(STAGES[stage], stage_settings(config, stage, task))
            points = [update for update in range(1, settings.updates + 1) if settings.validates_after(update)]
            assert len(points) >= 2, (stage, task)
            assert points[-1] == settings.updates


def test_smoke_stays_small_whatever_the_scale_says_of_single_games() -> None:
    config = resolved("smoke")
    for task in config["tasks"]:
        assert stage_settings(config, "sft_data", task)["samples"] <= 16
        assert stage_settings(config, "ppo", task)["total_env_steps"] <= 32
        assert stage_settings(config, "evaluation", task)["episodes"] <= 4
        assert stage_settings(config, "cnn", task)["total_env_steps"] <= 32


def test_fast_changes_the_number_of_environments_alone() -> None:
    paper, fast = resolved("paper"), resolved("paper-fast")
    for task in paper["tasks"]:
        own = stage_settings(fast, "ppo", task)
        assert own["num_envs"] == (16 if task == "ALFWorld" else 64)
        assert {**own, "num_envs": 0} == {**stage_settings(paper, "ppo", task), "num_envs": 0}
    for name in ("label", "results_dir", "assets_dir", "ppo", "task_options"):
        paper.pop(name)
        fast.pop(name)
    assert fast == paper


class TestPaperConfig:
    """The paper's scale holds the paper's numbers, and nothing of the embedded one."""

    def test_no_embedded_value_is_loaded(self, tmp_path: Path) -> None:
        (tmp_path / "scales").mkdir()
        for name in ("config.yaml", "paper.yaml", "scales/paper.yaml"):
            (tmp_path / name).write_text((FILES / name).read_text())
        config = load_config([tmp_path / "config.yaml", tmp_path / "paper.yaml"])
        assert checked_config(config, task_names(), options_of) == resolved("paper")

    @pytest.mark.parametrize(
        ("task", "rollout", "window"),
        [("NumberLine", 512, 200), ("EZPoints", 1024, 200), ("Points24", 1024, 200), ("Blackjack", 512, 1000)],
    )
    def test_ppo_is_the_papers(self, task: str, rollout: int, window: int) -> None:
        settings = build_settings(PPOSettings, stage_settings(resolved("paper"), "ppo", task))
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
        # This project's additions are off.
        assert (settings.kl_coef, settings.detach_value, settings.value_warmup) == (0.0, False, 0)
        assert settings.lora == LoraSettings(rank=128, alpha=256, targets="all-linear")
        assert settings.one_view

    def test_ppo_of_alfworld_is_the_papers(self) -> None:
        config = resolved("paper")
        settings = build_settings(PPOSettings, stage_settings(config, "ppo", "ALFWorld"))
        assert (settings.num_envs, settings.total_env_steps, settings.num_steps) == (1, 5 * 1024, 1024)
        assert (settings.minibatch_size, settings.success_window, settings.thought_prob_coef) == (256, 200, 0.2)
        assert (settings.max_new_tokens, settings.temperature) == (256, 0.2)
        assert (settings.value_clip, settings.value_learning_rate, settings.vf_coef) == (None, None, 0.5)
        # Where the games are is the machine's to say, by ALFWORLD_DATA; unsolvable ones are passed over, as there.
        assert settings.env == {"data": None, "split": "train", "backend": "thor", "skip_bad_games": True}
        splits = [evaluation_settings(config, "ALFWorld", games)["env"]["split"] for games in ("", "unseen")]
        assert splits == ["valid_seen", "valid_unseen"]

    def test_sft_is_the_papers(self) -> None:
        settings = build_settings(SFTSettings, stage_settings(resolved("paper"), "sft", "NumberLine"))
        assert (settings.epochs, settings.batch_size, settings.learning_rate) == (1, 64, 2e-5)
        assert (settings.warmup, settings.weight_decay, settings.max_length) == (0.03, 0.0, 2048)
        assert (settings.lora, settings.one_view, settings.muon_learning_rate) == (None, True, None)


def test_snakemake_merges_overlays_as_load_config_does() -> None:
    from snakemake.utils import update_config

    default, smoke = (yaml.safe_load((FILES / f"{name}.yaml").read_text()) for name in ("config", "smoke"))
    theirs = deepcopy(default)
    update_config(theirs, smoke)
    assert theirs == merge(default, smoke)


def test_every_variant_has_a_row_in_the_table_of_ablations() -> None:
    config = resolved("ablations")
    assert {run.variant for run in evaluation_runs(config) if run.variant} == set(config["variants"])

"""The runs that a config asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rl4vlm.config.runs import (
    CNNRun,
    PPORun,
    ablation_runs,
    cnn_runs,
    evaluation_runs,
    kept_policies,
    lambda_text,
    main_runs,
    ppo_runs,
    start_of,
)
from rl4vlm.config.stages.ppo import PPOSettings

CONFIG: Mapping[str, Any] = {
    "tasks": ["NumberLine", "Blackjack"],
    "styles": ["cot", "nocot"],
    "seeds": [1, 2],
    "ppo": {"defaults": {"thought_prob_coef": 0.5}, "per_task": {"Blackjack": {"thought_prob_coef": 0.2}}},
    "ablations": {"lambda": {"NumberLine": [0.1, 0.5, 1], "Points24": [0.3]}},
}


class TestRuns:
    def test_every_task_style_and_seed_at_its_own_lambda_and_the_ablation(self) -> None:
        assert [run.name for run in ppo_runs(CONFIG)] == [
            "NumberLine-cot-lambda0.5-seed1",
            "NumberLine-cot-lambda0.5-seed2",
            "NumberLine-nocot-lambda0.5-seed1",
            "NumberLine-nocot-lambda0.5-seed2",
            "Blackjack-cot-lambda0.2-seed1",
            "Blackjack-cot-lambda0.2-seed2",
            "Blackjack-nocot-lambda0.2-seed1",
            "Blackjack-nocot-lambda0.2-seed2",
            "NumberLine-cot-lambda0.1-seed1",
            "NumberLine-cot-lambda0.1-seed2",
            "NumberLine-cot-lambda1-seed1",
            "NumberLine-cot-lambda1-seed2",
        ]

    def test_a_config_that_leaves_lambda_out_has_the_settings_own(self) -> None:
        runs = main_runs({**CONFIG, "ppo": {}})
        assert {run.thought_prob_coef for run in runs} == {PPOSettings.thought_prob_coef}

    def test_without_ablations_there_are_the_main_runs(self) -> None:
        for none in ({}, {"ablations": None}, {"ablations": {"lambda": None}}):
            assert len(ppo_runs({**CONFIG, "ablations": {}, **none})) == 8

    @pytest.mark.parametrize(
        ("lam", "text"), [(0.5, "0.5"), (1, "1"), (0, "0"), (0.25, "0.25"), (1e-5, "0.00001"), (10, "10")]
    )
    def test_lambda_has_no_exponent_and_no_needless_zero(self, lam: float, text: str) -> None:
        assert lambda_text(lam) == text

    def test_everything_is_evaluated_once(self) -> None:
        runs = evaluation_runs(CONFIG)
        names = [run.name for run in runs]
        assert len(set(names)) == len(names)
        assert names[:3] == ["random-NumberLine", "random-Blackjack", "stand17-Blackjack"]
        assert names[3:5] == ["solver-NumberLine", "solver-Blackjack"]
        starts = [f"{task}-{style}" for task in ("NumberLine", "Blackjack") for style in ("cot", "nocot")]
        assert names[5:13] == [f"sft-{start}-seed{seed}" for start in starts for seed in (1, 2)]
        assert names[13:] == [f"ppo-{run.name}" for run in ppo_runs(CONFIG)]
        assert runs[-1].ppo == PPORun("NumberLine", "cot", 1.0, 2)
        assert (runs[-1].kind, runs[-1].task, runs[-1].style) == ("ppo", "NumberLine", "cot")

    def test_a_variant_shares_the_warm_start_unless_it_changes_it(self) -> None:
        variants = {"hotter": {"ppo": {"temperature": 1.0}}, "slower": {"sft": {"learning_rate": 1e-6}}}
        config = {**CONFIG, "tasks": ["NumberLine"], "ablations": None, "seeds": [1], "variants": variants, "sft": {}}
        runs = [run for run in ppo_runs(config) if run.variant]
        assert [(run.name, start_of(config, run).name) for run in runs] == [
            ("NumberLine-cot+hotter-lambda0.5-seed1", "NumberLine-cot-seed1"),
            ("NumberLine-cot+slower-lambda0.5-seed1", "NumberLine-cot+slower-seed1"),
        ]
        names = [run.name for run in evaluation_runs(config) if run.variant]
        assert names == [f"sft-{start_of(config, runs[1]).name}", *(f"ppo-{run.name}" for run in runs)]
        assert not set(runs) & {*main_runs(config), *ablation_runs(config)}

    def test_a_variant_that_changes_nothing_for_a_task_is_left_out(self) -> None:
        config = {**CONFIG, "ablations": None, "variants": {"lower": {"ppo": {"thought_prob_coef": 0.2}}}, "sft": {}}
        assert {(run.task, run.thought_prob_coef) for run in ppo_runs(config) if run.variant} == {("NumberLine", 0.2)}

    def test_the_cnn_runs_once_a_task_and_seed_except_where_it_is_left_out(self) -> None:
        config = {**CONFIG, "cnn": {"skip": ["Blackjack"], "defaults": {}, "per_task": None}}
        assert cnn_runs(config) == [CNNRun("NumberLine", 1), CNNRun("NumberLine", 2)]
        assert len(cnn_runs({**CONFIG, "cnn": {"defaults": {}}})) == 4
        runs = [run for run in evaluation_runs(config) if run.kind == "cnn"]
        assert [(run.name, run.style, run.ppo) for run in runs] == [
            ("cnn-NumberLine-seed1", "nocot", None),
            ("cnn-NumberLine-seed2", "nocot", None),
        ]

    def test_the_ablation_is_with_thoughts_and_so_needs_that_start(self) -> None:
        names = [run.name for run in evaluation_runs({**CONFIG, "styles": ["nocot"]})]
        assert "sft-NumberLine-cot-seed2" in names
        assert "sft-Blackjack-cot-seed1" not in names


def test_each_policy_is_evaluated_on_each_set() -> None:
    sets = {"NumberLine": {"seen": {"split": "seen"}, "unseen": {"split": "unseen"}}}
    config = {**CONFIG, "evaluation": {"sets": sets, "defaults": {"episodes": 3}}}
    runs = [run for run in evaluation_runs(config) if run.task == "NumberLine" and run.kind != "http"]
    names = {run.name for run in runs}
    assert len(names) == len(runs)
    assert {f"{run.name}@unseen" for run in runs if not run.games} == {run.name for run in runs if run.games}
    assert "sft-NumberLine-cot-seed1@unseen" in names
    assert not [run for run in evaluation_runs(config) if run.task != "NumberLine" and run.games]


def test_kept_policies_are_those_of_every_run() -> None:
    assert kept_policies(CONFIG) == []  # NumberLine and Blackjack make 29 updates of 512 steps
    config = {**CONFIG, "ppo": {**CONFIG["ppo"], "defaults": {"thought_prob_coef": 0.5, "keep_checkpoints": 10}}}
    kept = kept_policies(config)
    assert len({run for run, _ in kept}) == len(ppo_runs(config))
    assert [name for run, name in kept if run == ppo_runs(config)[0]][:2] == ["update0010", "update0020"]
    short = {**CONFIG, "ppo": {**config["ppo"], "per_task": {"Blackjack": {"total_env_steps": 512}}}}
    with pytest.raises(ValueError, match="seed1 would keep no policy"):
        kept_policies(short)

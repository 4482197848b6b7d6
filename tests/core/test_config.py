"""Merging, settings from words, and the runs that a config asks for."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rl4vlm.core.config import (
    TASK_OPTIONS,
    CNNRun,
    PPORun,
    api_settings,
    base_model_settings,
    cnn_evaluation_settings,
    cnn_runs,
    evaluation_runs,
    evaluation_settings,
    http_settings,
    lambda_text,
    load_config,
    merge,
    parse_settings,
    ppo_runs,
    settings_arguments,
    stage_settings,
    training_command,
)
from rl4vlm.core.settings import build_settings


@dataclass(frozen=True)
class Sizes:
    width: int = 8


@dataclass(frozen=True)
class Some:
    steps: int = 10
    rate: float = 0.1
    name: str = "a"
    limit: float | None = None
    flag: bool = False
    loggers: tuple[str, ...] = ()
    env: dict[str, Any] = field(default_factory=dict)
    prompt: dict[str, str] = field(default_factory=dict)
    sizes: Sizes = Sizes()

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps {self.steps} is negative")


class TestMerge:
    def test_mappings_merge_and_anything_else_is_replaced(self) -> None:
        below = {"a": {"x": 1, "y": [1, 2]}, "b": {"z": 1}, "c": 1}
        above = {"a": {"y": [3]}, "b": None, "d": {"e": 1}}
        before = deepcopy((below, above))
        assert merge(below, above) == {"a": {"x": 1, "y": [3]}, "b": None, "c": 1, "d": {"e": 1}}
        assert (below, above) == before

    def test_the_result_shares_nothing_with_its_parts(self) -> None:
        above: dict[str, Any] = {"a": {"b": [1]}}
        merge({}, above)["a"]["b"].append(2)
        assert above == {"a": {"b": [1]}}

    def test_files_are_laid_over_each_other(self, tmp_path: Path) -> None:
        for name, text in {"one": "a: {x: 1, y: 2}\n", "two": "a: {y: 3}\n", "empty": "# nothing\n"}.items():
            (tmp_path / name).write_text(text)
        assert load_config([tmp_path / name for name in ("one", "two", "empty")]) == {"a": {"x": 1, "y": 3}}

    @pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just text"])
    def test_a_file_that_is_no_mapping_is_named(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.yaml"):
            load_config([tmp_path / "bad.yaml"])


class TestStageSettings:
    CONFIG: Mapping[str, Any] = {
        "ppo": {"defaults": {"a": 1, "env": {"rules": "strict"}}, "tasks": {"T": {"a": 2, "env": {"x": 1}}}},
        "bare": {"defaults": None, "tasks": None},
        "base_model": {"source": "pretrain", "settings": {"steps": 3}},
    }

    def test_a_tasks_own_settings_lie_over_the_defaults(self) -> None:
        assert stage_settings(self.CONFIG, "ppo", "T") == {"a": 2, "env": {"rules": "strict", "x": 1}}
        assert stage_settings(self.CONFIG, "ppo", "U") == {"a": 1, "env": {"rules": "strict"}}
        assert stage_settings(self.CONFIG, "bare", "T") == {}

    def test_a_stage_without_tasks_has_settings(self) -> None:
        assert stage_settings(self.CONFIG, "base_model", None) == {"steps": 3}

    OPTIONS: Mapping[str, Any] = {
        "task_options": {
            "defaults": {"env": {"rules": "strict"}},
            "tasks": {"T": {"env": {"card_art": "cards"}, "prompt": {"role": "Hello."}}},
        },
        **{stage: {"defaults": {"a": 1}, "tasks": {"T": {"a": 2}}} for stage in (*TASK_OPTIONS, "sft")},
        "over_http": {"tasks": ["T"], "concurrency": 1},
        "api_models": {"mine": {"base_url": "http://x/v1", "model": "m"}},
        "results_dir": "results",
    }

    def test_every_stage_that_plays_has_the_tasks_options(self) -> None:
        config = self.OPTIONS
        env, prompt = {"rules": "strict", "card_art": "cards"}, {"role": "Hello."}
        for stage in ("sft_data", "ppo", "evaluation"):
            assert stage_settings(config, stage, "T") == {"a": 2, "env": env, "prompt": prompt}
            assert stage_settings(config, stage, "U") == {"a": 1, "env": {"rules": "strict"}}
        assert stage_settings(config, "cnn", "T") == {"a": 2, "env": env}
        assert stage_settings(config, "sft", "T") == {"a": 2}
        for settings in (http_settings(config, "T"), api_settings(config, "mine", "T")):
            assert (settings["env"], settings["prompt"]) == (env, prompt)

    def test_an_unknown_stage_is_named(self) -> None:
        with pytest.raises(ValueError, match="'pppo'"):
            stage_settings(self.CONFIG, "pppo", "T")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


class TestSettings:
    def test_words_set_what_they_name_and_nothing_else(self) -> None:
        words = [
            "steps=5",
            "rate=1e-5",
            "name=cuda:1",
            "limit=null",
            "flag=true",
            "loggers=[tensorboard]",
            'env={"rules": "strict"}',
            "prompt.role=You are {x}=y.",
            "sizes.width=4",
        ]
        expected = Some(
            5, 1e-5, "cuda:1", None, True, ("tensorboard",), {"rules": "strict"}, {"role": "You are {x}=y."}, Sizes(4)
        )
        assert parse_settings(Some, words) == expected
        assert parse_settings(Some, []) == Some()

    def test_dotted_words_add_up(self) -> None:
        assert parse_settings(Some, ["env.a=1", "env.b=x", 'env={"c": 2}']).env == {"a": 1, "b": "x", "c": 2}

    @pytest.mark.parametrize(
        ("word", "what"),
        [
            ("stps=5", "unknown setting 'stps'; did you mean steps"),
            ("zzz=5", "unknown setting 'zzz'; known: steps, rate"),
            ("sizes.widht=5", r"unknown setting 'sizes\.widht'; did you mean width"),
            ("steps", "'steps' is not of the form key=value"),
            ("steps=many", "steps='many'.*integer"),
            ("steps=1.5", r"steps=1\.5.*integer"),
            ("flag=7", "flag=7.*boolean"),
            ("prompt={role", "cannot read"),
            ("steps=-1", "steps -1 is negative"),
        ],
    )
    def test_a_wrong_word_is_named(self, word: str, what: str) -> None:
        with pytest.raises(ValueError, match=what):
            parse_settings(Some, [word])

    def test_a_mapping_does_as_well(self) -> None:
        assert build_settings(Some, {"steps": 3, "sizes": {"width": 2}}) == Some(steps=3, sizes=Sizes(2))
        with pytest.raises(ValueError, match="stps"):
            build_settings(Some, {"stps": 3})

    @hypothesis_settings(deadline=None)
    @given(value=JSON)
    def test_any_value_goes_through_the_command_line_unchanged(self, value: Any) -> None:
        @dataclass(frozen=True)
        class One:
            value: Any = None

        (word,) = settings_arguments({"value": value})
        assert parse_settings(One, shlex.split(word)).value == value

    def test_a_real_shell_passes_them_on(self) -> None:
        settings = {"role": 'It\'s $HOME "quoted"; `ls` {a}\nnew line', "tasks": ["a", "b"], "device": "cuda:1"}
        words = settings_arguments(settings)
        passed = subprocess.run(
            f"printf '%s\\0' {' '.join(words)}", shell=True, capture_output=True, text=True, check=True
        )

        @dataclass(frozen=True)
        class Same:
            role: str
            tasks: list[str]
            device: str

        assert vars(parse_settings(Same, passed.stdout.split("\0")[:-1])) == settings
        assert "device=cuda:1" in words


CONFIG: Mapping[str, Any] = {
    "tasks": ["NumberLine", "Blackjack"],
    "styles": ["cot", "nocot"],
    "seeds": [1, 2],
    "ppo": {"defaults": {"thought_weight": 0.5}, "tasks": {"Blackjack": {"thought_weight": 0.2}}},
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
        assert names[:4] == ["random-NumberLine", "random-Blackjack", "solver-NumberLine", "solver-Blackjack"]
        assert names[4] == "stand17-Blackjack"
        assert names[5:9] == ["sft-NumberLine-cot", "sft-NumberLine-nocot", "sft-Blackjack-cot", "sft-Blackjack-nocot"]
        assert names[9:] == [f"ppo-{run.name}" for run in ppo_runs(CONFIG)]
        assert runs[-1].ppo == PPORun("NumberLine", "cot", 1.0, 2)
        assert (runs[-1].kind, runs[-1].task, runs[-1].style) == ("ppo", "NumberLine", "cot")

    def test_the_cnn_runs_once_a_task_and_seed_except_where_it_is_left_out(self) -> None:
        config = {**CONFIG, "cnn": {"skip": ["Blackjack"], "defaults": {}, "tasks": None}}
        assert cnn_runs(config) == [CNNRun("NumberLine", 1), CNNRun("NumberLine", 2)]
        assert len(cnn_runs({**CONFIG, "cnn": {"defaults": {}}})) == 4
        runs = [run for run in evaluation_runs(config) if run.kind == "cnn"]
        assert [(run.name, run.style, run.ppo) for run in runs] == [
            ("cnn-NumberLine-seed1", "nocot", None),
            ("cnn-NumberLine-seed2", "nocot", None),
        ]

    def test_the_cnn_is_evaluated_on_the_same_episodes_at_its_own_temperature(self) -> None:
        config = {
            "cnn": {"defaults": {"temperature": 1.0}, "tasks": {"Blackjack": {"temperature": 0.7}}},
            "evaluation": {
                "defaults": {
                    "episodes": 20,
                    "seed_base": 7,
                    "temperature": 0.6,
                    "max_new_tokens": 9,
                    "dtype": "float32",
                },
                "tasks": {"Blackjack": {"episodes": 50}},
            },
        }
        assert cnn_evaluation_settings(config, "Blackjack") == {"episodes": 50, "seed_base": 7, "temperature": 0.7}
        assert cnn_evaluation_settings(config, "NumberLine") == {"episodes": 20, "seed_base": 7, "temperature": 1.0}

    def test_the_ablation_is_with_thoughts_and_so_needs_that_start(self) -> None:
        names = [run.name for run in evaluation_runs({**CONFIG, "styles": ["nocot"]})]
        assert "sft-NumberLine-cot" in names
        assert "sft-Blackjack-cot" not in names


ROOT = Path(__file__).parents[2]


def test_every_stage_of_every_shipped_config_builds_its_settings() -> None:
    """Stages without torch here; the others are tested where their settings are."""
    from rl4vlm.evaluation.run import EvaluationSettings
    from rl4vlm.sft.data import SFTDataSettings

    files = sorted((ROOT / "config").glob("*.yaml"))
    assert ROOT / "config/config.yaml" in files
    for file in files:
        config = load_config([ROOT / "config/config.yaml", file])
        assert ppo_runs(config)
        for task in config["tasks"]:
            for stage, kind in {"sft_data": SFTDataSettings, "evaluation": EvaluationSettings}.items():
                settings = stage_settings(config, stage, task)
                words = shlex.split(" ".join(settings_arguments(settings)))
                built = parse_settings(kind, words)
                assert yaml.safe_load(yaml.safe_dump(settings)) == {name: getattr(built, name) for name in settings}


def test_several_processes_are_launched_where_the_config_asks_for_them() -> None:
    config = {"resources": {"ppo": {"gpu": 2, "processes": 2}, "sft": {"gpu": 1}}, "accelerate": "my files/ddp.yaml"}
    assert training_command(config, "sft") == "rl4vlm"
    words = shlex.split(training_command(config, "ppo"))
    assert words[:2] == ["accelerate", "launch"]
    assert words[words.index("--config_file") + 1] == "my files/ddp.yaml"
    assert words[words.index("--num_processes") + 1] == "2"
    assert words[-1] == "rl4vlm"


class TestSetsOfGames:
    CONFIG: ClassVar[dict[str, Any]] = {
        **CONFIG,
        "task_options": {"tasks": {"NumberLine": {"env": {"data": "games", "split": "train"}}}},
        "evaluation": {
            "sets": {"NumberLine": {"seen": {"split": "seen"}, "unseen": {"split": "unseen"}}},
            "defaults": {"episodes": 3},
        },
    }

    def test_each_policy_is_evaluated_on_each_set(self) -> None:
        runs = [run for run in evaluation_runs(self.CONFIG) if run.task == "NumberLine" and run.kind != "http"]
        names = {run.name for run in runs}
        assert len(names) == len(runs)
        assert {f"{run.name}@unseen" for run in runs if not run.games} == {run.name for run in runs if run.games}
        assert "sft-NumberLine-cot@unseen" in names
        assert not [run for run in evaluation_runs(self.CONFIG) if run.task != "NumberLine" and run.games]

    def test_the_first_is_the_tasks_own(self) -> None:
        seen = evaluation_settings(self.CONFIG, "NumberLine")
        assert seen == {"episodes": 3, "games": "seen", "env": {"data": "games", "split": "seen"}}
        assert evaluation_settings(self.CONFIG, "NumberLine", "unseen")["env"] == {"data": "games", "split": "unseen"}
        assert evaluation_settings(self.CONFIG, "Blackjack") == {"episodes": 3}
        with pytest.raises(ValueError, match=r"evaluation\.sets\.NumberLine: no set 'moon'; there are seen, unseen"):
            evaluation_settings(self.CONFIG, "NumberLine", "moon")

    def test_the_base_model_is_told_where_games_are(self) -> None:
        config = {**self.CONFIG, "base_model": {"settings": {"tasks": ["NumberLine", "Blackjack"], "steps": 1}}}
        env = {"NumberLine": {"data": "games", "split": "train"}}
        assert base_model_settings(config) == {**config["base_model"]["settings"], "task_env": env}
        assert base_model_settings({**config, "task_options": {}}) == config["base_model"]["settings"]

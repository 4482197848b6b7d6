"""Merging, and what a config says to a stage about a task."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rl4vlm.config.load import (
    CNN_EVALUATION,
    SCRIPTED_EVALUATION,
    TASK_OPTIONS,
    api_settings,
    cnn_evaluation_settings,
    evaluation_settings,
    http_settings,
    load_config,
    merge,
    stage_settings,
    with_scale,
)
from rl4vlm.config.stages.evaluation import VLM_OPTIONS, EvaluationSettings


class TestMerge:
    def test_mappings_merge_and_anything_else_is_replaced(self) -> None:
        below = {"a": {"x": 1, "y": [1, 2]}, "b": {"z": 1}, "c": 1}
        above = {"a": {"y": [3]}, "b": None, "d": {"e": 1}}
        before = deepcopy((below, above))
        assert merge(below, above) == {"a": {"x": 1, "y": [3]}, "b": None, "c": 1, "d": {"e": 1}}
        assert (below, above) == before

    def test_another_source_does_not_inherit_a_revision(self) -> None:
        below = {"base_model": {"defaults": {"source": "a/b", "revision": "1234"}}}
        for above, left in (
            ({"source": "c/d"}, {"source": "c/d"}),
            ({"source": "c/d", "revision": "56"}, {"source": "c/d", "revision": "56"}),
            ({"source": "a/b"}, {"source": "a/b", "revision": "1234"}),
            ({"settings": {}}, {"source": "a/b", "revision": "1234", "settings": {}}),
        ):
            assert merge(below, {"base_model": {"defaults": above}}) == {"base_model": {"defaults": left}}

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


class TestScale:
    @staticmethod
    def write(folder: Path, files: Mapping[str, str]) -> None:
        """Write YAML files, by name without its ending."""
        (folder / "scales").mkdir()
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(text)

    def test_its_file_lies_below_all_others(self, tmp_path: Path) -> None:
        files = {
            "scales/small": "a: {x: 1, y: 1}\nb: 1\nc: {z: 1}\n",
            "scales/large": "a: {x: 9}\n",
            "base": "scale: small\na: {x: 2}\nb: 2\n",
            "over": "b: 3\nc: null\n",
            "other": "scale: large\n",
        }
        self.write(tmp_path, files)
        base, over, other = (tmp_path / f"{name}.yaml" for name in ("base", "over", "other"))
        assert load_config([base, over]) == {"scale": "small", "a": {"x": 2, "y": 1}, "b": 3, "c": None}
        assert load_config([base, other]) == {"scale": "large", "a": {"x": 2}, "b": 2}

    def test_what_a_file_drops_stays_dropped_if_a_later_one_sets_another_part(self, tmp_path: Path) -> None:
        files = {
            "scales/small": "a: {defaults: {x: 1}, per_task: {T: {x: 2}}}\n",
            "base": "scale: small\n",
            "drops": "a: {per_task: null}\n",
            "sets": "a: {per_task: {U: {y: 3}}}\n",
        }
        self.write(tmp_path, files)
        config = load_config([tmp_path / f"{name}.yaml" for name in ("base", "drops", "sets")])
        assert config["a"] == {"defaults": {"x": 1}, "per_task": {"U": {"y": 3}}}

    def test_one_without_a_file_is_named_with_the_nearest(self, tmp_path: Path) -> None:
        (tmp_path / "paper.yaml").touch()
        with pytest.raises(ValueError, match="no scale 'papre'; did you mean paper"):
            with_scale([{"scale": "papre"}], tmp_path)


class TestStageSettings:
    CONFIG: Mapping[str, Any] = {
        "ppo": {"defaults": {"a": 1, "env": {"rules": "strict"}}, "per_task": {"T": {"a": 2, "env": {"x": 1}}}},
        "bare": {"defaults": None, "per_task": None},
    }

    def test_a_tasks_own_settings_lie_over_the_defaults(self) -> None:
        assert stage_settings(self.CONFIG, "ppo", "T") == {"a": 2, "env": {"rules": "strict", "x": 1}}
        assert stage_settings(self.CONFIG, "ppo", "U") == {"a": 1, "env": {"rules": "strict"}}
        assert stage_settings(self.CONFIG, "bare", "T") == {}

    OPTIONS: Mapping[str, Any] = {
        "task_options": {
            "defaults": {"env": {"rules": "strict"}},
            "per_task": {"T": {"env": {"card_art": "cards"}, "prompt": {"role": "Hello."}}},
        },
        **{stage: {"defaults": {"a": 1}, "per_task": {"T": {"a": 2}}} for stage in (*TASK_OPTIONS, "sft")},
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

    def test_the_results_folder_is_filled_in(self) -> None:
        options = {"per_task": {"T": {"env": {"data": "{results_dir}/games", "rules": "{x}", "n": 1}}}}
        config = {"results_dir": "out", "ppo": {"defaults": {}, "per_task": None}, "task_options": options}
        assert stage_settings(config, "ppo", "T")["env"] == {"data": "out/games", "rules": "{x}", "n": 1}

    def test_an_unknown_stage_is_named(self) -> None:
        with pytest.raises(ValueError, match="'pppo'"):
            stage_settings(self.CONFIG, "pppo", "T")


def test_the_cnn_is_evaluated_on_the_same_episodes_at_its_own_temperature() -> None:
    config = {
        "ppo": {"defaults": {"temperature": 0.2, "max_new_tokens": 8}},
        "cnn": {"defaults": {"temperature": 1.0}, "per_task": {"Blackjack": {"temperature": 0.7}}},
        "evaluation": {
            "defaults": {
                "episodes": 20,
                "seed_base": 7,
                "temperature": 0.6,
                "max_new_tokens": 9,
                "dtype": "float32",
            },
            "per_task": {"Blackjack": {"episodes": 50}, "ALFWorld": {"each_game_once": True}},
        },
    }
    assert cnn_evaluation_settings(config, "ALFWorld")["each_game_once"] is True
    assert cnn_evaluation_settings(config, "Blackjack") == {"episodes": 50, "seed_base": 7, "temperature": 0.7}
    found = cnn_evaluation_settings(config, "NumberLine")
    assert found == {"episodes": 20, "seed_base": 7, "temperature": 1.0}
    assert found.keys() <= {*CNN_EVALUATION}


def test_each_setting_of_an_evaluation_is_of_all_policies_or_of_models_alone() -> None:
    """A new setting that nobody sorted would never reach scripted policies and CNN+RL."""
    of_models = {*VLM_OPTIONS, "max_new_tokens", "dtype", "api"}
    others = {*SCRIPTED_EVALUATION, *CNN_EVALUATION}
    assert of_models.isdisjoint(others)
    assert {item.name for item in fields(EvaluationSettings)} == of_models | others


def test_a_policy_is_sampled_as_it_was_trained_unless_the_evaluation_says_otherwise() -> None:
    config = {
        "ppo": {"defaults": {"temperature": 0.2, "num_envs": 4}, "per_task": {"Points24": {"max_new_tokens": 80}}},
        "evaluation": {"defaults": {"episodes": 3}, "per_task": {"Blackjack": {"temperature": 0.0}}},
        "variants": {"hot": {"ppo": {"temperature": 1.5}}},
    }
    assert evaluation_settings(config, "Points24") == {"temperature": 0.2, "max_new_tokens": 80, "episodes": 3}
    assert evaluation_settings(config, "NumberLine", variant="hot") == {"temperature": 1.5, "episodes": 3}
    assert evaluation_settings(config, "Blackjack", variant="hot") == {"temperature": 0.0, "episodes": 3}


class TestSetsOfGames:
    CONFIG: ClassVar[dict[str, Any]] = {
        "task_options": {"per_task": {"NumberLine": {"env": {"data": "games", "split": "train"}}}},
        "ppo": {},
        "evaluation": {
            "sets": {"NumberLine": {"seen": {"split": "seen"}, "unseen": {"split": "unseen"}}},
            "defaults": {"episodes": 3},
        },
    }

    def test_a_policy_without_a_language_model_is_told_the_set_too(self) -> None:
        config = {**self.CONFIG, "cnn": {"defaults": {"temperature": 1.0}}}
        for asked, named in (("", "seen"), ("unseen", "unseen")):
            settings = cnn_evaluation_settings(config, "NumberLine", asked)
            assert (settings["games"], settings["env"]["split"]) == (named, named)

    def test_the_first_is_the_tasks_own(self) -> None:
        seen = evaluation_settings(self.CONFIG, "NumberLine")
        assert seen == {"episodes": 3, "games": "seen", "env": {"data": "games", "split": "seen"}}
        assert evaluation_settings(self.CONFIG, "NumberLine", "unseen")["env"] == {"data": "games", "split": "unseen"}
        assert evaluation_settings(self.CONFIG, "Blackjack") == {"episodes": 3}
        with pytest.raises(ValueError, match=r"evaluation\.sets\.NumberLine: no set 'moon'; there are seen, unseen"):
            evaluation_settings(self.CONFIG, "NumberLine", "moon")

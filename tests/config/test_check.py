"""What a config may say: wrong names, wrong values and settings that do not fit are named, all at once."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import nullcontext
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest

from rl4vlm.config.check import KnownOptions, checked_config
from rl4vlm.config.load import merge, stage_settings
from rl4vlm.interaction.options import options_of
from rl4vlm.tasks.registry import task_names
from tests.config.test_config_files import laid_over, resolved

MODEL = {"base_url": "https://example.org/v1", "model": "m"}


def overlay(place: str, value: Any) -> dict[str, Any]:
    """A mapping with `value` at a dotted place; a name with dots in it stands in brackets."""
    return reduce(lambda inner, name: {name: inner}, reversed(place.split(".")), value)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("result_dir", "x", "top level: unknown setting 'result_dir'; did you mean results_dir"),
        ("tasks", ["NumberLime"], "tasks: unknown task 'NumberLime'; did you mean NumberLine"),
        ("tasks", ["EZPoints", "EZPoints"], "tasks: an entry stands there twice"),
        ("tasks", [], "tasks"),
        ("tasks", ["NumberLine", "Nim{x}"], r"tasks\.1: the name of a task must not contain '{'"),
        ("styles", ["cot", "nocott"], "styles.1='nocott': Input should be 'cot' or 'nocot'; did you mean nocot"),
        ("seeds", [1, True], "seeds.1: a number is needed, not true or false"),
        ("scale", 3, "scale=3"),
        ("ppo.defaults.learning_rat", 1, "ppo.defaults: unknown setting 'learning_rat'; did you mean learning_rate"),
        ("ppo.defaults.learning_rate", "fast", "ppo.defaults: setting learning_rate='fast'"),
        ("ppo.defaults.learning_rate", float("nan"), "ppo.defaults.learning_rate=nan: not a finite number"),
        ("ppo.defaults.device", "cudda", "ppo.defaults: setting device='cudda': no device; did you mean cuda"),
        ("evaluation.defaults.device", "gpu", "no device; known: auto, cpu, cuda"),
        ("ppo.defaults.gamma", 1.5, "ppo.defaults: setting gamma=1.5: .*less than or equal to 1"),
        ("ppo.per_task.Points24.gamma", 1.5, "ppo.per_task.Points24: setting gamma=1.5"),
        ("ppo.per_task.NumberLime", {}, "ppo.per_task: unknown task 'NumberLime'; did you mean NumberLine"),
        ("ppo.per_task.Blackjack", {"lambda": 1}, "ppo.per_task.Blackjack: unknown setting 'lambda'"),
        ("ppo.per_task.Blackjack.num_envs", 48, "ppo for Blackjack: num_steps 512 is not a multiple of num_envs 48"),
        ("ppo.defaults.prompt", {"role": "x"}, "ppo.defaults: setting 'prompt' belongs in task_options"),
        (
            "task_options.defaults.prompt",
            {"role": {"target": None}},
            "role: .*not a mapping; .* needs quotes",
        ),
        ("ppo.defaults.lora", {"rnk": 1}, "ppo.defaults: lora: unknown setting 'rnk'; did you mean rank"),
        ("evaluation.defaults.games", "seen", "evaluation.defaults: setting 'games' belongs in evaluation.sets"),
        ("evaluation.sets", {"ALFWord": {}}, "evaluation.sets: unknown task 'ALFWord'; did you mean ALFWorld"),
        ("evaluation.sets.ALFWorld", {"a b": {}}, r"evaluation.sets.ALFWorld.a b"),
        (
            "evaluation.sets.ALFWorld.seen",
            {"split": "valid_sen"},
            "evaluation.sets.ALFWorld.seen: split cannot be 'valid_sen'; did you mean valid_seen",
        ),
        ("evaluation.sets.ALFWorld.seen", {"splt": 1}, "seen: no option 'splt'; did you mean split"),
        (
            "task_options.per_task.ALFWorld.env",
            {"bakend": "thor"},
            "task_options for ALFWorld, env: no option 'bakend'; did you mean backend",
        ),
        (
            "task_options.per_task.ALFWorld.env",
            {"task_types": ["Pick", "Haet"]},
            "task_types cannot be 'Haet'; did you mean Heat",
        ),
        (
            "task_options.per_task.ALFWorld.env",
            {"task_types": "Pick"},
            "types cannot be 'Pick'; it takes a list of",
        ),
        ("task_options.per_task.ALFWorld.env", {"show_text": 1}, "show_text cannot be 1; known: True, False"),
        (
            "task_options.per_task.EZPoints",
            {"env": {"rules": "strikt"}},
            "rules cannot be 'strikt'; did you mean strict",
        ),
        ("task_options.per_task.EZPoints", {"promt": {}}, "unknown setting 'promt'; did you mean prompt"),
        ("task_options.per_task.EZPoints", {"prompt": {"rol": "x"}}, "prompt: no text 'rol'; did you mean role"),
        ("alfworld.generate.unsen", 3, "alfworld.generate: unknown setting 'unsen'; did you mean unseen"),
        ("alfworld.generate.rooms", 25, "alfworld.generate: setting rooms=25"),
        (
            "sft_data.given",
            {"NumberLine-ctt": "x"},
            "sft_data.given: no demonstrations are named 'NumberLine-ctt'; did you mean NumberLine-cot",
        ),
        (
            "sft_data.per_task.ALFWorld.demonstrator",
            {"expert": "plannr"},
            "sft_data for ALFWorld, demonstrator: expert cannot be 'plannr'; did you mean planner",
        ),
        ("over_http.tasks", ["NumberLime"], "over_http.tasks: unknown task 'NumberLime'; did you mean NumberLine"),
        ("ablations.lambda", {"NumberLime": [1]}, "ablations.lambda: unknown task 'NumberLime'"),
        ("ablations.lambda", {"NumberLine": [2]}, "ablations.lambda.NumberLine.0=2"),
        (
            "ablations.lambda",
            {"NumberLine": [0.1, 0.1000000001]},
            "Line: the folder of 0.1000000001 would be named 0.1;",
        ),
        ("ppo.defaults.thought_prob_coef", 1e-8, "ppo for NumberLine, thought_prob_coef: .* would be named 0;"),
        ("variants.one.ppo.thought_prob_coef", 1e-8, "variants.one.ppo.thought_prob_coef: .* would be named 0;"),
        ("ablations.lamda", {}, "ablations.lamda"),
        ("cnn.skip", ["NumberLime"], "cnn.skip: unknown task 'NumberLime'"),
        ("cnn.defaults.sizes.image_size", 20, "cnn for NumberLine: .*image_size 20 is too small"),
        ("base_model.defaults.settings.weights", {"NumberLime": 2}, r"settings.weights: unknown task 'NumberLime'"),
        ("base_model.per_task.ALFWorld.settings.pretrain_tasks", ["ALFWord"], "pretrain_tasks: unknown task 'ALFWord'"),
        ("base_model.defaults.settings.pretrain_tasks", [], "settings: setting pretrain_tasks=.*at least 1 item"),
        ("base_model.defaults.settings", {"weights": {"EZPoints": 0}, "pretrain_tasks": ["EZPoints"]}, "weights: none"),
        (
            "base_model.defaults.settings.sizes",
            {"heads": 7},
            "base_model for NumberLine: .*width 128 is not an even mul",
        ),
        ("api_models.m", {**MODEL, "extra": {"top_p": [float("inf")]}}, "api_models.m.extra.top_p.0=inf: not a finite"),
        ("api_models.m", {**MODEL, "tasks": ["Blackjak"]}, "api_models.m.tasks: unknown task 'Blackjak'"),
        ("api_models.m", {**MODEL, "style": "nocott"}, "api_models.m: setting style='nocott'"),
        ("api_models.m", {**MODEL, "modle": "x"}, "api_models.m: unknown setting 'modle'; did you mean model"),
        ("api_models.m", {"model": "x"}, "api_models.m: .*base_url"),
        ("resources.ppo.gpus", 1, "top level: unknown setting 'resources.ppo.gpus'; did you mean gpu"),
        ("resources.ppo.threads", 0, "resources.ppo.threads=0"),
        ("figures.style.lambda_palette", "virids", "lambda_palette 'virids' is not a palette; did you mean viridis"),
        ("figures.style.colours", {"RL4VLM": "bleu"}, r"'bleu' \(of RL4VLM\) is not a colour; did you mean blue"),
        ("over_http.episodes", 3_000_000_000, "over_http for NumberLine: .*leads into the seeds of validation"),
        ("results_dir", "~/results", "results_dir: '~/results' is no usable path: it may not begin with ~"),
        ("results_dir", "runs{1}", r"results_dir: 'runs\{1\}' is no usable path"),
        ("sft_data.given", {"NumberLine-cot": "-rf"}, "sft_data.given.NumberLine-cot: '-rf' is no usable path"),
        ("label", "a\0b", "label: the text holds a null character"),
        ("task_options.per_task.EZPoints", {"prompt": {"role": "\ud800"}}, "prompt.role: .*half of a surrogate pair"),
        (
            "task_options.per_task.ALFWorld",
            {"env": {"data": 5}},
            "env: data cannot be 5; input should be a valid string",
        ),
        ("figures.style.color", {}, "figures.style: unknown setting 'color'; did you mean colours"),
        ("gallery.episode", 1, "gallery: unknown setting 'episode'; did you mean episodes"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_right(place: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"config, .*{said}"):
        laid_over("default", overlay(place, value))


class Flat(TypedDict):
    """Before Python 3.12, pydantic refuses this type."""


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (int, 5, None),
        (int, "5", "lives cannot be '5'; input should be a valid integer"),
        (bool, 1, "lives cannot be 1; input should be a valid boolean"),
        (Literal["Easy", "Hard"], "easy", "lives cannot be 'easy'; input should be 'Easy' or 'Hard'"),
        (tuple[Path, ...], ["a"], None),
        (Collection[str], 5, None),
        (Flat, {}, None),
    ],
)
def test_an_option_has_the_type_of_its_hint(hint: Any, value: Any, said: str | None) -> None:
    known = KnownOptions(env={"lives": ()}, env_types={"lives": hint}, prompt=())
    config = merge(
        resolved("default"), {"tasks": ["Cat"], "task_options": {"per_task": {"Cat": {"env": {"lives": value}}}}}
    )
    with nullcontext() if said is None else pytest.raises(ValueError, match=re.escape(said)):
        checked_config(config, ["Cat", *task_names()], lambda task: known if task == "Cat" else options_of(task))


def test_a_value_that_holds_itself_is_refused() -> None:
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(ValueError, match="config, top level: a value holds itself"):
        checked_config({**resolved("default"), "tasks": itself}, task_names(), options_of)


def test_a_key_that_must_be_there_is_named() -> None:
    config = resolved("default")
    del config["tasks"]
    with pytest.raises(ValueError, match="config, tasks: "):
        checked_config(config, task_names(), options_of)


def test_all_problems_are_shown_a_line_each() -> None:
    wrong = {"ppo": {"defaults": {"gama": 1}}, "sft": {"defaults": {"epoch": 1}}}
    with pytest.raises(ValueError, match="gamma") as error:
        laid_over("default", wrong)
    assert len(str(error.value).splitlines()) == 2


def test_a_key_in_the_wrong_place_is_not_shown() -> None:
    with pytest.raises(ValueError, match="key_env must name an environment variable") as error:
        laid_over("default", {"api_models": {"m": {**MODEL, "key_env": "sk-secret"}}})
    assert "sk-secret" not in str(error.value)


def test_values_get_their_types() -> None:
    told = {"ppo": {"defaults": {"learning_rate": "1e-5", "gamma": 1, "num_envs": 32.0}}}
    config = laid_over("default", told)
    settings = stage_settings(config, "ppo", "EZPoints")
    assert (settings["learning_rate"], settings["gamma"], settings["num_envs"]) == (1e-5, 1.0, 32)
    assert [type(settings[name]) for name in ("learning_rate", "gamma", "num_envs")] == [float, float, int]


def test_the_baseline_and_the_ablation_can_be_left_out() -> None:
    config = laid_over("default", {"cnn": None, "ablations": None})
    assert (config["cnn"], config["ablations"]) == (None, None)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            {"resources": {"ppo": {"gpu": 4, "processes": 4}}},
            r"ppo for NumberLine: num_envs is 2 and resources\.ppo\.processes 4; each process needs an environment",
        ),
        (
            {"resources": {"ppo": {"gpu": 2, "processes": 2}}},
            r"ppo for ALFWorld: num_envs is 1 and resources\.ppo\.processes 2",
        ),
        ({"resources": {"ppo": {"gpu": 4}}}, r"resources\.ppo: gpu is 4 and processes 1; each process takes one GPU"),
        ({"resources": {"sft": {"gpu": 1, "processes": 2}}}, r"resources\.sft: gpu is 1 and processes 2"),
        ({"resources": {"sft": {"gpu": 4, "processes": 4, "nodes": 3}}}, r"resources\.sft: processes is 4 and nodes 3"),
        (
            {"resources": {"sft": {"nodes": 2}}},
            r"resources\.sft: processes is 1 and nodes 2; each node gets equally many",
        ),
        ({"resources": {"cnn": {"processes": 2}}}, r"resources\.cnn\.processes: only sft and ppo"),
        (
            {
                "tasks": ["NumberLine"],
                "resources": {"ppo": {"gpu": 2, "processes": 2}},
                "variants": {"one": {"ppo": {"num_envs": 1}}},
            },
            r"variants\.one for NumberLine, ppo: num_envs is 1 and resources\.ppo\.processes 2",
        ),
    ],
)
def test_processes_that_could_not_work_are_named(told: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        laid_over("paper", told)


@pytest.mark.parametrize(
    ("place", "said", "granted"),
    [
        ("ppo.defaults", "ppo for NumberLine", ["ppo"]),
        ("variants.one.ppo", "variants.one for NumberLine, ppo", ["ppo"]),
        # CNN+RL is evaluated with what its training is granted, and on the device of the evaluation.
        ("evaluation.defaults", "evaluation of CNN+RL for NumberLine", ["evaluation", "cnn"]),
        ("base_model.defaults.settings", "base_model for NumberLine", ["base_model"]),
    ],
)
def test_a_gpu_for_a_job_that_sees_none_is_refused(place: str, said: str, granted: list[str]) -> None:
    told = merge({"base_model": {"defaults": {"source": "pretrain"}}}, overlay(f"{place}.device", "cuda:1"))
    message = f"{said}: device is 'cuda:1', but resources.{granted[-1]}.gpu is 0"
    with pytest.raises(ValueError, match=re.escape(message)):
        laid_over("default", told)
    laid_over("default", {**told, "resources": {stage: {"gpu": 1} for stage in granted}})


def test_a_lambda_ablation_needs_the_methods_own_lambda() -> None:
    told = {"styles": ["nocot"], "ablations": {"lambda": {"NumberLine": [0.1, 0.9]}}}
    message = r"ablations\.lambda\.NumberLine: no run has the method's own λ, 0\.5; add 0\.5, or cot to styles"
    with pytest.raises(ValueError, match=message):
        laid_over("default", told)
    laid_over("default", {**told, "styles": ["cot"]})
    laid_over("default", {**told, "ablations": {"lambda": {"NumberLine": [0.1, 0.5]}}})


def test_a_file_for_several_processes_must_be_there() -> None:
    with pytest.raises(ValueError, match=r"accelerate: there is no file 'none\.yaml', and resources\.ppo asks for 2"):
        laid_over("smoke", {"resources": {"ppo": {"processes": 2}}, "accelerate": "none.yaml"})


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("ppo.defaults.loggers", ["wandb"], "ppo for NumberLine: loggers=wandb needs wandb; .*extra 'wandb'"),
        ("evaluation.defaults.quantize", "4bit", "evaluation for NumberLine: quantize=4bit needs bitsandbytes"),
        (
            "ppo.defaults",
            {"engine": "vllm", "importance_cap": 2},
            "ppo for NumberLine: engine=vllm needs vllm, in a separate environment",
        ),
        ("evaluation.defaults.engine", "vllm", "evaluation for NumberLine: engine=vllm needs vllm, in a separate"),
        ("variants.one.sft.loggers", ["wandb"], "variants.one for NumberLine, sft: loggers=wandb needs wandb"),
    ],
)
def test_a_package_that_jobs_would_not_find_is_named(place: str, value: Any, said: str) -> None:
    config = merge(resolved("default"), overlay(place, value))
    with pytest.raises(ValueError, match=said):
        checked_config(config, task_names(), options_of, installed=lambda package: False)
    checked_config(config, task_names(), options_of, installed=lambda package: True)


def test_processes_need_no_gpu() -> None:
    laid_over("smoke", {"resources": {"ppo": {"processes": 2}}})


def test_a_setting_of_a_task_that_does_not_run_need_not_fit_the_others() -> None:
    laid_over("default", {"tasks": ["NumberLine"], "ppo": {"per_task": {"Blackjack": {"num_envs": 48}}}})


def test_the_config_itself_is_not_changed() -> None:
    config = merge(resolved("default"), {"ppo": {"defaults": {"gamma": 1}}})
    before = deepcopy(config)
    checked_config(config, task_names(), options_of)
    assert config == before

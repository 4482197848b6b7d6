"""Differences on the same episodes, shares of the ceiling, and what the rolling peak flatters."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rl4vlm.core.files import RECORD
from rl4vlm.results.collection import Results
from rl4vlm.results.comparisons import ALL_TASKS, ceiling_rows, difference_rows, lambda_verdicts, paired
from rl4vlm.results.read import load_evaluation
from rl4vlm.results.rows import rate_rows
from rl4vlm.results.tables import build_tables
from tests.results.synthetic import Synthetic, add_evaluation, make_results, write_json, write_lines


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    made = make_results(tmp_path_factory.mktemp("results"), seeds=(1, 2, 3), cnn=True, lambdas=(0.3, 0.5))
    return Results.load(**made.inputs)


def test_only_the_episodes_that_both_played_count(tmp_path):
    made = Synthetic(tmp_path)
    first, second = (add_evaluation(made, name, "Blackjack", name, "ppo", 0.5, 4) for name in ("a", "b"))
    write_lines(
        second / "episodes.jsonl",
        [{"seed": seed, "success": seed in (11, 12), "perception": {}} for seed in (13, 12, 11, 99)],
    )
    write_lines(first / "episodes.jsonl", [{"seed": s, "success": s > 11, "perception": {}} for s in range(10, 14)])
    # 11: only the second; 12: both; 13: only the first.
    assert paired(load_evaluation(first), load_evaluation(second)) == {11: -1, 12: 0, 13: 1}


def test_every_comparison_has_its_verdict(results):
    rows = difference_rows(results, "embedded")
    found = {(row.method, row.against): row for row in rows[rows["task"] == "NumberLine"].itertuples()}
    assert set(found) == {
        ("RL4VLM", "LLaVA-sft"),
        ("RL4VLM-noCoT", "LLaVA-sft-noCoT"),
        ("RL4VLM", "RL4VLM-noCoT"),
        ("RL4VLM", "CNN+RL"),
        ("RL4VLM lambda=0.3", "RL4VLM lambda=0.5"),
    }
    start: Any = found["RL4VLM", "LLaVA-sft"]
    # 95, 94 and 93 % after PPO, 35 % before.
    assert start.difference == pytest.approx(59)
    assert start.ci_low < 59 < start.ci_high
    assert (start.verdict, start.probability, start.episodes, start.seeds) == ("better", 1.0, 600, "1 2 3")
    assert found["RL4VLM", "CNN+RL"].verdict == "worse"


def test_methods_without_a_common_seed_are_not_compared(tmp_path):
    made = Synthetic(tmp_path)
    add_evaluation(made, "a", "Blackjack", "RL4VLM", "ppo", 0.5, 4, seed=1)
    add_evaluation(made, "b", "Blackjack", "LLaVA-sft", "sft", 0.5, 4, seed=2)
    assert difference_rows(Results.load(**made.inputs), "embedded").empty


def test_share_of_the_ceiling_and_what_the_peak_flatters(results):
    main = rate_rows(results, "embedded")["main"]
    rows = ceiling_rows(results, main, "embedded")
    blackjack = rows[(rows["method"] == "RL4VLM") & (rows["task"] == "Blackjack")].iloc[0]
    assert (blackjack["ceiling"], blackjack["ceiling_source"]) == (42.95, "enumerated")
    assert blackjack["share"] == pytest.approx(100 * 41 / 42.95)
    assert blackjack["flatters_by"] == pytest.approx(blackjack["rolling_peak"] - 41)
    total = rows[(rows["method"] == "RL4VLM") & (rows["task"] == ALL_TASKS)].iloc[0]
    assert total["share"] == pytest.approx(sum([94, 61, 100 * 2 / 73.09, 100 * 41 / 42.95]) / 4)
    assert total["share_low"] < total["share"] < total["share_high"]
    assert "solver" not in set(rows["method"])


def test_a_ceiling_that_was_not_enumerated_is_the_solver_s(tmp_path):
    made = Synthetic(tmp_path)
    for method, kind, rate in (("solver", "scripted", 0.5), ("random", "scripted", 0.25)):
        add_evaluation(made, method, "ALFWorld", method, kind, rate, 20)
    results = Results.load(**made.inputs)
    row = ceiling_rows(results, rate_rows(results, "embedded")["main"], "embedded").iloc[0]
    assert (row["ceiling"], row["share"], row["ceiling_source"]) == (50, 50, "solver, same episodes")


def test_the_share_over_all_tasks_has_the_seeds_of_every_task(tmp_path):
    made = Synthetic(tmp_path)
    for task, seeds in (("NumberLine", (1, 3)), ("EZPoints", (1, 2, 10))):
        for seed in seeds:
            add_evaluation(made, f"{task}-{seed}", task, "LLaVA-sft", "sft", 0.5, 20, seed=seed)
    results = Results.load(**made.inputs)
    rows = ceiling_rows(results, rate_rows(results, "embedded")["main"], "embedded").set_index("task")
    assert dict(rows["seeds"]) == {"NumberLine": "1 3", "EZPoints": "1 2 10", ALL_TASKS: "1 2 3 10"}


@pytest.mark.filterwarnings("error")
def test_a_ceiling_of_0_is_not_known(tmp_path):
    made = Synthetic(tmp_path)
    for task, ceiling in (("ALFWorld", 0), ("NumberLine", 1)):
        for method, rate in (("solver", ceiling), ("random", ceiling / 4)):
            add_evaluation(made, f"{method}-{task}", task, method, "scripted", rate, 20)
    results = Results.load(**made.inputs)
    rows = ceiling_rows(results, rate_rows(results, "embedded")["main"], "embedded").set_index("task")
    assert set(rows.index) == {"NumberLine", "ALFWorld"}
    assert rows.loc["ALFWorld", ["ceiling", "share", "share_low", "share_high"]].isna().all()
    assert rows.loc["NumberLine", "share"] == 25
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    assert "inf" not in (tmp_path / "tables" / "ceiling.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("task", "rules", "ceiling"),
    [("Points24", "strict", 73.09), ("Points24", "upstream", 50), ("Blackjack", "upstream", 42.95)],
)
def test_the_enumerated_rates_of_a_formula_game_hold_for_the_usual_rules_alone(tmp_path, task, rules, ceiling):
    made = Synthetic(tmp_path)
    for method, rate in (("solver", 0.5), ("LLaVA-sft", 0.25)):
        folder = add_evaluation(made, f"{method}-{task}", task, method, "sft", rate, 40, seed=1)
        write_json(folder / RECORD, {"stage": "evaluation", "settings": {"env": {"rules": rules}}})
    results = Results.load(**made.inputs)
    main = rate_rows(results, "embedded")["main"]
    assert ceiling_rows(results, main, "embedded").iloc[0]["ceiling"] == ceiling
    shown = main[(main["source"] == "reference") & (main["method"] == "solver") & (main["task"] == task)]
    assert list(shown["success_rate"]) == ([] if ceiling == 50 else [ceiling])


def test_one_seed_says_that_it_is_one(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], episodes=20, lambdas=(0.5,))
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    text = (tmp_path / "tables" / "differences.md").read_text(encoding="utf-8")
    assert "There is one training seed" in text
    assert "RL4VLM against LLaVA-sft " in text
    assert " better |" in text


def test_each_lambda_gets_its_verdict_in_words(tmp_path):
    made = Synthetic(tmp_path)
    for task, others in (("NumberLine", 0.2), ("EZPoints", 0.5)):
        made.thought_prob_coef[task] = 0.5
        for weight, rate in ((0.5, 0.5), (0.1, 0.5), (1, others)):
            for seed in (1, 2, 3):
                extra: dict[str, Any] = {"seed": seed, "lambda": weight}
                add_evaluation(made, f"{task}-{weight}-{seed}", task, "RL4VLM", "ppo", rate, 100, **extra)
    first, second = lambda_verdicts(difference_rows(Results.load(**made.inputs), "embedded"))
    assert first.startswith("NumberLine: λ that differ from 0.5 are 1 (worse); all intervals")
    assert re.fullmatch(r"EZPoints: no λ differs from 0\.5; all .* lie within ±\d\.\d points\.", second)

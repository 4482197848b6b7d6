"""The numbers of others are all there, and mean what the tables say they mean."""

from importlib.resources import files

import pytest

from rl4vlm.results.published import (
    later_citations,
    later_rates,
    published_curves,
    published_lambda_peaks,
    published_rates,
    reference_rates,
)


def rate_of(rates, method, task):
    return next(rate.success_rate for rate in rates if (rate.method, rate.task) == (method, task))


def test_paper_s_main_numbers():
    assert len(published_rates()) == 86
    assert rate_of(published_rates(), "RL4VLM", "NumberLine") == 89.4
    assert rate_of(published_rates(), "RL4VLM-noCoT", "Blackjack") == 40.4
    cards = [rate_of(published_rates(), "GPT4-V", task) for task in ("NumberLine", "EZPoints", "Points24", "Blackjack")]
    assert rate_of(published_rates(), "GPT4-V", "gym_cards_avg") == pytest.approx(sum(cards) / 4, abs=0.05)


def test_reference_policies_bear_the_names_of_the_scripted_ones():
    assert rate_of(reference_rates(), "random", "NumberLine") == 28.3
    assert rate_of(reference_rates(), "solver", "Points24") == 73.09
    assert rate_of(reference_rates(), "solver", "Blackjack") == 42.95
    assert rate_of(reference_rates(), "stand on 17", "Blackjack") == 40.77


def test_curves_are_named_like_methods_and_lambdas_by_their_weight():
    assert {(curve.figure, curve.method) for curve in published_curves() if curve.task == "NumberLine"} == {
        ("main", "RL4VLM"),
        ("main", "CNN+RL"),
        ("cot", "RL4VLM-noCoT"),
        *(("lambda", f"RL4VLM lambda={weight}") for weight in (0.1, 0.3, 0.5, 0.7, 0.9)),
    }
    assert all(sorted(curve.env_steps) == list(curve.env_steps) for curve in published_curves())


def test_lambda_peaks_are_the_highest_points_read():
    assert {rate.method: rate.success_rate for rate in published_lambda_peaks()} == {
        "RL4VLM lambda=0.1": 25,
        "RL4VLM lambda=0.3": 87,
        "RL4VLM lambda=0.5": 86,
        "RL4VLM lambda=0.7": 34,
        "RL4VLM lambda=0.9": 34,
    }


def test_later_works_and_where_they_were_published():
    found = {
        (rate.method, rate.task): (work, rate.success_rate) for work, rates in later_rates().items() for rate in rates
    }
    tasks = ("NumberLine", "EZPoints", "Points24", "Blackjack", "alfworld_avg")
    coso = {"CoSo": (100, 50, 5.8, 41.5, 26.5), "RL4VLM": (88.4, 50, 2.5, 39.3, 22.7)}
    expected = {
        (method, task): ("CoSo, second-hand", rate)
        for method, rates in coso.items()
        for task, rate in zip(tasks, rates, strict=True)
    }
    expected["TCPO", "alfworld_avg"] = ("TCPO, abstract", 26.67)
    expected["GTR-Turbo", "Points24"] = ("GTR-Turbo, second-hand", 53.5)
    assert found == expected
    sources = files("rl4vlm.results").joinpath("data", "README.md").read_text(encoding="utf-8")
    for work, cited in later_citations().items():
        assert f"| {work.partition(',')[0]}, {cited}" in sources

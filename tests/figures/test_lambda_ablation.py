"""The figure of λ on several games, over training seeds."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.text import Text

from rl4vlm.figures.lambda_ablation import figure
from rl4vlm.figures.style import FigureStyle, drawing
from rl4vlm.results.collection import Results
from tests.results.synthetic import Synthetic, add_evaluation, add_training_run


def test_the_rates_are_those_on_the_main_games(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    for weight in (0.3, 0.5):
        run = f"ppo-NumberLine-cot-lambda{weight}-seed1"
        options: dict[str, Any] = {"lambda": weight, "seed": 1}
        add_evaluation(made, run, "NumberLine", "RL4VLM", "ppo", 0.9, 40, **options)
        add_evaluation(made, f"{run}@far", "NumberLine", "RL4VLM", "ppo", 0.1, 40, games="far", **options)
    made.thought_prob_coef["NumberLine"] = 0.5
    style = FigureStyle(dpi=60)
    with drawing(style):
        drawn = figure(Results.load(**made.inputs), "embedded", style)
    rates = drawn.subfigs[0].axes[1]
    assert [bar[0].get_ydata()[0] for bar in rates.containers] == [90, 90]


def test_lambda_ablation_has_a_row_with_intervals_for_each_task(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    for task, weight, seed in product(("NumberLine", "EZPoints"), (0, 0.5, 1), (1, 2, 3)):
        run = f"{task}-cot-lambda{weight}-seed{seed}"
        add_training_run(made, run, 0.2, 0.8, seed)
        options: dict[str, Any] = {"lambda": weight}
        add_evaluation(made, f"ppo-{run}", task, "RL4VLM", "ppo", 0.5 + weight / 4, 40, seed=seed, **options)
        made.thought_prob_coef[task] = 0.5
    style = FigureStyle(dpi=60)
    with drawing(style):
        drawn = figure(Results.load(**made.inputs), "embedded", style)
    axes = drawn.subfigs[0].axes
    # It draws no validation episodes, so its small print explains no mark of theirs.
    assert not any("riangle" in text.get_text() for text in drawn.findobj(Text))
    assert [axis.get_title().split(",")[0] for axis in axes] == ["NumberLine"] * 2 + ["EZPoints"] * 2
    assert [axis.get_ylabel() for axis in axes] == ["success rate (%)", ""] * 2
    assert axes[0].get_position().y0 > axes[2].get_position().y0
    for rates in axes[1::2]:
        assert [round(bar.get_label() == "λ = 0") for bar in rates.containers] == [1, 0, 0]
        for bar in rates.containers:
            ((_, low), (_, high)) = bar[2][0].get_segments()[0]
            assert low < bar[0].get_ydata()[0] < high

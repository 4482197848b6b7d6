"""Draws a figure by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from rl4vlm.figures.results import Results
from rl4vlm.figures.style import FigureStyle, drawing, save

FIGURES: dict[str, str] = {
    "training_curves": "rl4vlm.figures.training_curves:figure",
    "cot_ablation": "rl4vlm.figures.cot_ablation:figure",
    "lambda_ablation": "rl4vlm.figures.lambda_ablation:figure",
    "logprob_balance": "rl4vlm.figures.logprob_balance:figure",
    "reading": "rl4vlm.figures.reading:figure",
}


def draw(
    name: str,
    *,
    evaluations: Iterable[Path],
    ppo_runs: Iterable[Path],
    base_reading: Path | None,
    out: Path,
    scale: str,
    style: FigureStyle | None = None,
    main_lambda: Mapping[str, float] | None = None,
) -> None:
    """Draw the figure `name` as `out`.pdf and `out`.png; the same inputs and style give the same bytes.

    Args:
        name: a key of `FIGURES`.
        evaluations: folders of held-out evaluations (`summary.json`, `episodes.jsonl`).
        ppo_runs: folders of PPO runs (`metrics.jsonl`).
        base_reading: the base model's `reading.json`, or None.
        out: path of the files, without a suffix.
        scale: which config made the results, for the small print.
        style: colours, sizes and fonts.
        main_lambda: by task, which λ is the method's own; see `Results`.

    Raises ValueError that lists the known figures, or names an input file (and line) that is missing or broken.
    """
    if name not in FIGURES:
        raise ValueError(f"unknown figure {name!r}: known are {', '.join(FIGURES)}")
    module, _, attribute = FIGURES[name].partition(":")
    figure = getattr(importlib.import_module(module), attribute)
    style = style or FigureStyle()
    results = Results.load(
        evaluations=evaluations, ppo_runs=ppo_runs, base_reading=base_reading, main_lambda=main_lambda
    )
    with drawing(style):
        save(figure(results, scale, style), out)

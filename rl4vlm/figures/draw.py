"""Draws a figure by name."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from rl4vlm.figures.style import FigureStyle, drawing, save
from rl4vlm.results.provenance import write_run_record
from rl4vlm.results.read import Results, input_files, perceptions_record

FIGURES: dict[str, str] = {
    "training_curves": "rl4vlm.figures.training_curves:figure",
    "cot_ablation": "rl4vlm.figures.cot_ablation:figure",
    "lambda_ablation": "rl4vlm.figures.lambda_ablation:figure",
    "logprob_balance": "rl4vlm.figures.logprob_balance:figure",
    "perception": "rl4vlm.figures.perception:figure",
}


def draw(
    name: str,
    *,
    evaluations: Iterable[Path],
    training_runs: Iterable[Path],
    base_perceptions: Mapping[str, Path],
    out: Path,
    scale: str,
    style: FigureStyle | None = None,
    main_lambda: Mapping[str, float] | None = None,
) -> None:
    """Draw the figure `name` as `out`.pdf and `out`.png; the same inputs and style give the same bytes.

    `out`.run.json beside them tells what made them, and when.

    Args:
        name: a key of `FIGURES`.
        evaluations: folders of held-out evaluations (`summary.json`, `episodes.jsonl`).
        training_runs: folders of PPO and CNN+RL runs (`metrics.jsonl`).
        base_perceptions: by task, the `perception.json` of the base model that it started from, if that was asked.
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
    started = time.monotonic()
    style = style or FigureStyle()
    evaluations, training_runs = list(evaluations), list(training_runs)
    results = Results.load(
        evaluations=evaluations, training_runs=training_runs, base_perceptions=base_perceptions, main_lambda=main_lambda
    )
    with drawing(style):
        save(figure(results, scale, style), out)
    write_run_record(
        out.parent,
        stage="figure",
        settings={
            "figure": name,
            "scale": scale,
            "main_lambda": results.main_lambda,
            "base_perceptions": perceptions_record(base_perceptions),
            "style": style,
        },
        seeds={},
        inputs=input_files(evaluations, training_runs, base_perceptions),
        seconds=time.monotonic() - started,
        name=f"{out.name}.run.json",
    )

"""Draws a figure by its name."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from pkgutil import resolve_name

from rl4vlm.core.files import RECORD
from rl4vlm.core.output import stage_output
from rl4vlm.figures.style import FigureStyle, drawing, save
from rl4vlm.results.collection import Results, input_files, perceptions_record
from rl4vlm.results.names import FIGURE_KINDS, FIGURES
from rl4vlm.results.provenance import inputs_now, write_run_record


def draw(
    name: str,
    *,
    evaluations: Iterable[Path],
    training_runs: Iterable[Path],
    base_perceptions: Mapping[str, Path],
    out: Path,
    scale: str,
    style: FigureStyle | None = None,
    thought_prob_coef: Mapping[str, float] | None = None,
) -> None:
    """Draw the figure `name` as `out`.pdf and `out`.png; the same inputs and style give the same bytes.

    `out`.run.json beside them says what made them, and when.

    Args:
        name: a key of `FIGURES`.
        evaluations: folders of held-out evaluations (`summary.json`, `episodes.jsonl`).
        training_runs: folders of PPO and CNN+RL runs (`run.json`, `metrics.jsonl`).
        base_perceptions: by task, the `perception.json` of the base model that it started from, if there is one.
        out: path of the files, without a suffix.
        scale: label of the config that made the results, for the small print.
        style: colours, sizes and fonts.
        thought_prob_coef: by task, the λ of the method itself; see `Results`.

    Raises:
        ValueError: there is no such figure, or an input file is missing or broken; the error names it and the line.
    """
    if name not in FIGURES:
        raise ValueError(f"unknown figure {name!r}: known are {', '.join(FIGURES)}")
    figure = resolve_name(FIGURES[name])
    started = time.monotonic()
    style = style or FigureStyle()
    evaluations, training_runs = list(evaluations), list(training_runs)
    inputs = inputs_now(input_files(evaluations, training_runs, base_perceptions))
    results = Results.load(
        evaluations=evaluations,
        training_runs=training_runs,
        base_perceptions=base_perceptions,
        thought_prob_coef=thought_prob_coef,
    )
    record = f"{out.name}.{RECORD}"
    files = [f"{out.name}.{kind}" for kind in FIGURE_KINDS]
    with stage_output(out.parent, ["figure"], files, record=record) as folder:
        with drawing(style):
            save(figure(results, scale, style), folder / out.name)
        write_run_record(
            folder,
            stage="figure",
            settings={
                "figure": name,
                "scale": scale,
                "thought_prob_coef": results.thought_prob_coef,
                "base_perceptions": perceptions_record(base_perceptions),
                "style": style,
            },
            seeds={},
            inputs=inputs,
            seconds=time.monotonic() - started,
            name=record,
        )

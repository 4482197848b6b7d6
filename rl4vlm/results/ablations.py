"""The table of ablations: what each variant of the method wins, and its difference from the method itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from rl4vlm.results.collection import Results
from rl4vlm.results.comparisons import DIFFERENCE_COLUMNS, differences
from rl4vlm.results.intervals import rate_interval
from rl4vlm.results.read import Evaluation
from rl4vlm.results.rows import labelled

ABLATION_COLUMNS = [
    "variant", "method", "task", "scale", "success_rate", "rate_low", "rate_high", "difference", "ci_low", "ci_high",
    "probability", "verdict", "episodes", "seeds",
]  # fmt: skip
METHODS = ("RL4VLM", "LLaVA-sft")
"""The method, and its warm start, which some variants change too."""


def ablation_rows(results: Results, scale: str) -> pd.DataFrame:
    """The method by task, then its variants with their differences from it on the same episodes and training seeds.

    Rates are in percent, differences in points. The rows of the method itself have no variant and no difference.
    """
    rows: list[dict[str, object]] = []
    for task in results.tasks:
        for method in METHODS:
            own = results.evaluations_on_all_games(method, task)
            tried = [run for run in results.variants if (run.task, run.method) == (task, method)]
            if tried or method == METHODS[0]:
                rows += _rates("", own, scale)
            for variant in sorted({run.variant for run in tried}):
                runs = [run for run in tried if run.variant == variant]
                found = pd.DataFrame(
                    list(differences("ablation", method, method, runs, own, scale)), columns=DIFFERENCE_COLUMNS
                ).set_index("scale")
                for row in _rates(variant, runs, scale):
                    # Without a run of the method with the same seed there is a rate and no difference.
                    paired: dict[Any, Any] = (
                        found.loc[str(row["scale"])].to_dict() if row["scale"] in found.index else {}
                    )
                    names = ("difference", "ci_low", "ci_high", "probability", "verdict")
                    rows.append({**row, **{name: paired[name] for name in names if name in paired}})
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS).astype({"episodes": "Int64"})


def _rates(variant: str, runs: Sequence[Evaluation], scale: str) -> Iterator[dict[str, object]]:
    """One row for each set of games, training seeds pooled."""
    for games in dict.fromkeys(run.games_label for run in runs):
        played = [run for run in runs if run.games_label == games]
        low, high = rate_interval([run.won for run in played])
        episodes = sum(run.episodes for run in played)
        yield {
            "variant": variant,
            "method": played[0].method,
            "task": played[0].task,
            "scale": labelled(scale, games),
            "success_rate": 100 * sum(run.successes for run in played) / episodes,
            "rate_low": low,
            "rate_high": high,
            "verdict": "",
            "episodes": episodes,
            "seeds": " ".join(str(run.seed) for run in sorted(played, key=lambda run: run.seed or 0)),
        }

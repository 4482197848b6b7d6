"""The result tables: tidy CSV for programs, and the same rows side by side in Markdown and LaTeX for readers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rl4vlm.config.methods import METHODS, label_of, rank
from rl4vlm.core.files import atomic_write_text
from rl4vlm.core.output import stage_output
from rl4vlm.results.ablations import ablation_rows
from rl4vlm.results.collection import Results, input_files, perceptions_record
from rl4vlm.results.comparisons import ceiling_rows, difference_rows, lambda_verdicts
from rl4vlm.results.names import table_files
from rl4vlm.results.provenance import HELD_OUT, inputs_now, write_run_record
from rl4vlm.results.published import PAPER, later_citations
from rl4vlm.results.rows import CARD_AVERAGE, COLUMNS, TASK_ORDER, groups, perception_rows, rate_rows, with_games

NOT_THE_BENCHMARK = {
    "generated games": "Generated games are this project's",
    "drawn pictures": "Drawn pictures are this project's",
}
"""For words in the label of a row (`scale`) that say which games were played, the note below the table."""
BASE_GAMES = "The base model read the games that it was made on, which may differ from those that later stages played."
PARTIAL = "†"
CAPTIONS = {
    "main": "Success rates in percent. {legend}",
    "cot": "With and without chain of thought. {legend}",
    "lambda": "λ, the weight of the thoughts. {legend} The published values of this table are peaks of curves read by "
    "eye off figure 7 (±1.5 points).",
}

CEILING_CAPTION = (
    "Held-out success as a share of the best possible, in percent, with 95 % intervals; scale `{scale}`. Ceiling: "
    "enumerated on the rules of the games, or what the solver wins of the same episodes. All tasks: the plain mean "
    "of the shares, with a bootstrap interval. Rolling peak: the paper's statistic of the same trainings, mean over "
    "seeds. Flatters by: how many points it is above the held-out rate."
)
ABLATIONS_CAPTION = (
    "Variants of the method, scale `{scale}`: held-out success in percent and the difference from the method in "
    "points, on the same episodes and training seeds, with 95 % intervals. Verdict: better or worse if the interval of "
    "the difference excludes 0, else undecided. Nothing corrects for the number of variants. LLaVA-sft: the warm start "
    "of a variant that changes it. `variants` in the config says what each one changes."
)

_LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": ""}
    | {"λ": r"$\lambda$", "±": r"$\pm$", "†": r"\dag{}"}
)
"""More than `escape=True` of pandas covers, and for captions too, which pandas leaves as they are."""


def build_tables(
    *,
    evaluations: Iterable[Path],
    training_runs: Iterable[Path],
    base_perceptions: Mapping[str, Path],
    out: Path,
    scale: str,
    thought_prob_coef: Mapping[str, float] | None = None,
) -> None:
    """Write the tables (`rl4vlm.results.names.TABLES`) as `.csv`, `.md` and `.tex`, and `run.json` about them.

    Args:
        evaluations: folders of held-out evaluations (`summary.json`, `episodes.jsonl`).
        training_runs: folders of PPO and CNN+RL runs (`run.json`, `metrics.jsonl`), for the paper's own protocol.
        base_perceptions: by task, the `perception.json` of the base model that it started from, if there is one.
        out: folder to write.
        scale: label of the reproduced rows (`embedded`, `smoke`, `paper`, ...).
        thought_prob_coef: by task, the λ of the method itself; see `Results`.

    Raises:
        ValueError: an input file is missing or broken; the error names it and the line.
    """
    started = time.monotonic()
    evaluations, training_runs = list(evaluations), list(training_runs)
    inputs = inputs_now(input_files(evaluations, training_runs, base_perceptions))
    results = Results.load(
        evaluations=evaluations,
        training_runs=training_runs,
        base_perceptions=base_perceptions,
        thought_prob_coef=thought_prob_coef,
    )
    headings = {CARD_AVERAGE: "card average", **results.overall_headings}
    rates, differences = rate_rows(results, scale), difference_rows(results, scale)
    written = [*rates, "differences", "ceiling", "perception", *["ablations"] * bool(results.variants)]
    # Name only the tables that are written now. Snakemake removes an old record before the job, so a table that an
    # earlier config left would count as the user's own file and stop the job.
    with stage_output(out, ["tables"], table_files(written)) as folder:
        said = {"lambda": "".join(f" {verdict}" for verdict in lambda_verdicts(differences))}
        for name, rows in rates.items():
            wide = _wide_rates(rows, [] if name == "lambda" else results.kinds).rename(columns=headings)
            caption = CAPTIONS[name].format(legend=_legend(scale)) + _later_works(wide) + _notes(rows)
            caption += said.get(name, "")
            _write(folder / name, rows[COLUMNS], wide, caption)
        _write(
            folder / "differences", differences, _wide_differences(differences), _differences_caption(results, scale)
        )
        ceilings = ceiling_rows(results, rates["main"], scale)
        _write(folder / "ceiling", ceilings, _wide_ceilings(ceilings, headings), CEILING_CAPTION.format(scale=scale))
        if results.variants:
            ablations = ablation_rows(results, scale)
            _write(folder / "ablations", ablations, _wide_ablations(ablations), ABLATIONS_CAPTION.format(scale=scale))
        perception = perception_rows(results, scale)
        _write(folder / "perception", perception, _wide_perception(perception), _perception_caption(perception, scale))
        write_run_record(
            folder,
            stage="tables",
            settings={
                "scale": scale,
                "thought_prob_coef": results.thought_prob_coef,
                "base_perceptions": perceptions_record(base_perceptions),
            },
            seeds={},
            inputs=inputs,
            seconds=time.monotonic() - started,
        )


def _legend(scale: str) -> str:
    return (
        f"Reproduced: at scale `{scale}`. Held out: episodes on fixed evaluation seeds, with 95 % intervals. Rolling "
        "peak: the paper's protocol, the best rolling success rate during training. Published: "
        f"{PAPER}, by the paper's protocol; RL4VLM and LLaVA-sft are a 7B model there. Reference: enumerated or "
        "measured on the rules of the games. Empty: not run, or not known."
    )


def _later_works(wide: pd.DataFrame) -> str:
    """What a caption says of the later works that the table shows."""
    sources = {f"published ({work})": f"{work}: {cited}" for work, cited in later_citations().items()}
    shown = [text for source, text in sources.items() if (wide["source"] == source).any()]
    return f" Later works, by protocols of their own: {'; '.join(shown)}." if shown else ""


def _notes(rows: pd.DataFrame) -> str:
    """Notes of a caption, if a row is partial or is about games that are not the benchmark's."""
    notes = ""
    if rows["partial"].any():
        notes += f" {PARTIAL} Partial: the policy stopped before all the episodes that were asked for were played."
    for words, note in NOT_THE_BENCHMARK.items():
        if rows["scale"].str.contains(words, regex=False).any():
            notes += f" {note}, not the benchmark's, and rates on them are not to be compared with published ones."
    return notes


def _wide_rates(rows: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    """One line per method and source, one column per task that something was reproduced on.

    `kinds` are the kinds of episodes that tasks are counted by. Each has its column, empty if no episode was of it.
    """
    reproduced = rows.loc[rows["source"] == "reproduced", "task"]
    tasks = {*(reproduced if len(reproduced) else rows["task"]), *kinds}
    shown = rows[rows["task"].isin(tasks)]
    shown = shown.assign(source=shown.apply(_source_label, axis=1), cell=shown.apply(rate_cell, axis=1))
    lines = [
        {"method": method, "source": source, **dict(zip(found["task"], found["cell"], strict=True))}
        for (method, source), found in groups(shown, "method", "source")
    ]
    columns = sorted(tasks, key=lambda task: rank(task, (*TASK_ORDER, *kinds)))
    return pd.DataFrame(lines, columns=["method", "source", *columns]).fillna("")


def _source_label(row: pd.Series) -> str:
    if row["source"] == "published":
        return f"published ({row['scale']})"
    if row["source"] == "reference":
        return "reference"
    return f"reproduced ({row['scale']}), {'held out' if row['protocol'] == HELD_OUT else 'rolling peak'}"


def rate_cell(row: pd.Series) -> str:
    """A success rate with its interval, if it has one, in percent: `62.0 [55.1, 68.4]`."""
    interval = "" if pd.isna(row["ci_low"]) else f" [{row['ci_low']:.1f}, {row['ci_high']:.1f}]"
    return f"{row['success_rate']:.1f}{PARTIAL if row['partial'] else ''}{interval}"


def _wide_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per comparison."""
    pairs = zip(rows["method"], rows["against"], strict=True)
    return pd.DataFrame(
        {
            "methods": [f"{label_of(first)} against {label_of(second)}" for first, second in pairs],
            "task": [with_games(task, where) for task, where in zip(rows["task"], rows["scale"], strict=True)],
            "difference": [
                _cell(*found) for found in rows[["difference", "ci_low", "ci_high"]].itertuples(index=False)
            ],
            "P(better)": [f"{probability:.3f}" for probability in rows["probability"]],
            "verdict": rows["verdict"],
            "pairs of episodes": rows["episodes"].astype(str),
            "seeds": rows["seeds"],
        }
    )


def _cell(value: Any, low: float = np.nan, high: float = np.nan) -> str:
    if pd.isna(value):
        return ""
    # `z`: what rounds to zero has no minus sign.
    return f"{value:z.1f}" if pd.isna(low) else f"{value:z.1f} [{low:z.1f}, {high:z.1f}]"


def _differences_caption(results: Results, scale: str) -> str:
    caption = (
        f"By how many points of success the first method is above the second on the same held-out episodes, scale "
        f"`{scale}`, with 95 % intervals: a bootstrap of training seeds and of the episodes that they share. "
        "P(better): the share of its samples above 0, ties halved. Verdict: better or worse if the interval excludes "
        "0, else undecided. Nothing corrects for the number of comparisons."
    )
    if len({run.seed for run in results.training_runs}) < 2:
        caption += (
            " There is one training seed: the intervals cover the chance of the episodes, and do not say how another "
            "training would have ended."
        )
    return caption


def _wide_ceilings(rows: pd.DataFrame, headings: Mapping[str, str]) -> pd.DataFrame:
    """One line per method and task, which is called as in the headings of the main table."""
    shares = rows[["share", "share_low", "share_high"]].itertuples(index=False)
    tasks = rows["task"].map(lambda task: headings.get(task, task))
    return pd.DataFrame(
        {
            "method": rows["method"].map(label_of),
            "task": [with_games(task, where) for task, where in zip(tasks, rows["scale"], strict=True)],
            "held out": rows["success_rate"].map(_cell),
            "ceiling": rows["ceiling"].map(_cell),
            "source of the ceiling": rows["ceiling_source"].fillna(""),
            "share of it": [_cell(*share) for share in shares],
            "rolling peak": rows["rolling_peak"].map(_cell),
            "flatters by": rows["flatters_by"].map(_cell),
        }
    )


def _wide_ablations(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per task, method and variant."""
    rates, points = (
        [_cell(*found) for found in rows[list(names)].itertuples(index=False)]
        for names in (("success_rate", "rate_low", "rate_high"), ("difference", "ci_low", "ci_high"))
    )
    pairs = zip(rows["task"], rows["scale"], rows["method"], strict=True)
    return pd.DataFrame(
        {
            "task": [f"{with_games(task, where)}, {label_of(method)}" for task, where, method in pairs],
            "variant": rows["variant"].where(rows["variant"] != "", "none").str.replace("_", " "),
            "held out": rates,
            "difference": points,
            "verdict": rows["verdict"],
            "episodes": rows["episodes"].astype(str),
            "seeds": rows["seeds"],
        }
    )


def _wide_perception(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per task and field, one column per method."""
    games = rows.dropna(subset="games").drop_duplicates("task").set_index("task")["games"]
    names = {task: f"{task} ({label})" for task, label in games.items()}
    lines = [
        {
            "task": names.get(task, task),
            "field": name,
            **{row["method"]: _perception_cell(row) for _, row in found.iterrows()},
        }
        for (task, name), found in groups(rows, "task", "field")
    ]
    methods = sorted(rows["method"].unique(), key=lambda method: rank(method, [*METHODS]))
    return pd.DataFrame(lines, columns=["task", "field", *methods]).fillna("")


def _perception_cell(row: pd.Series) -> str:
    """An accuracy with the number of replies behind it: `98.0 (250)`, `98.0 (200 of 250)`, `not stated (250)`."""
    asked = row["n"] + row["not_stated"]
    if not row["n"]:
        return f"not stated ({asked})"
    return f"{row['accuracy']:.1f} ({row['n']}{f' of {asked}' if row['not_stated'] else ''})"


def _perception_caption(rows: pd.DataFrame, scale: str) -> str:
    caption = (
        f"How often each field of the image is read right, in percent (in brackets: how often it was stated, "
        f"and of how many times if it was not always). "
        f"Scale `{scale}`. The base model answers the question what it reads. Later stages read within their replies, "
        "in held-out play."
    )
    return f"{caption} {BASE_GAMES}" if rows["games"].notna().any() else caption


def _write(base: Path, rows: pd.DataFrame, wide: pd.DataFrame, caption: str) -> None:
    """Write `rows` as CSV, and `wide` as Markdown and LaTeX; all but its first two columns hold numbers."""
    rounded = rows.apply(lambda column: column.map(lambda value: round(value, 4)) if column.dtype == float else column)
    # The first column groups the rows: a text that repeats from the row above is left out.
    first = wide.columns[0]
    grouped = wide.assign(**{first: wide[first].where(wide[first] != wide[first].shift(), "")})
    texts = {
        "csv": rounded.to_csv(index=False, lineterminator="\n"),
        "md": f"{markdown(grouped)}\n\n{caption}\n",
        "tex": _latex(grouped, caption),
    }
    for kind, text in texts.items():
        atomic_write_text(base.with_suffix(f".{kind}"), text)


def markdown(table: pd.DataFrame, words: int = 2) -> str:
    """The table in GitHub's Markdown; all columns but the first ones, `words` of them, are aligned to the right."""
    alignment = ["left" if place < words else "right" for place in range(len(table.columns))]
    escaped = table.map(lambda cell: cell.replace("|", r"\|"))
    # Without disable_numparse, tabulate would print 25.0 as 25.
    return str(escaped.to_markdown(index=False, colalign=alignment if len(table) else None, disable_numparse=True))


def _latex(table: pd.DataFrame, caption: str) -> str:
    """The table as a `table` environment (package booktabs)."""
    # An empty table has columns of numbers.
    escaped = table.rename(columns=_tex).astype(str).map(_tex)
    first = escaped.columns[0]
    # A group begins with a little space above it, the first one excepted.
    begins = (escaped[first] != "") & (escaped.index > 0)
    escaped[first] = escaped[first].where(~begins, "\\addlinespace\n" + escaped[first])
    columns = "ll" + "r" * (len(table.columns) - 2)
    text = escaped.to_latex(index=False, escape=False, caption=_tex(caption), column_format=columns)
    return str(text.replace(r"\begin{table}", "\\begin{table}\n\\centering", 1))


def _tex(text: str) -> str:
    return text.translate(_LATEX)

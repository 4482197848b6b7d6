"""README's table, and the page with all results: `docs/results.md`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from pydantic import BaseModel

from rl4vlm.config.methods import label_of
from rl4vlm.config.run_names import experiment_of
from rl4vlm.core.files import RECORD, checked, read_text
from rl4vlm.core.games import GAMES_MARK
from rl4vlm.core.output import check_unchanged
from rl4vlm.results.lineage import place_of, runs_behind
from rl4vlm.results.names import README_TABLE, TABLES, figures_beside, page_in, tables_in
from rl4vlm.results.provenance import HELD_OUT, METRICS, SUMMARY, read_record
from rl4vlm.results.rows import CARD_TASKS, PAPER_SCALE, groups
from rl4vlm.results.tables import NOT_THE_BENCHMARK, markdown, rate_cell
from rl4vlm.tasks.alfworld import ALFWorld

SHOWN = ("random", "solver", "CNN+RL", "LLaVA-sft", "RL4VLM-noCoT", "RL4VLM")
"""The reproduced rows of README's table; the paper's RL4VLM follows."""
ALFWORLD = str(ALFWorld.overall)
"""ALFWorld's column, and its rows in the main table."""

SIZES = {"ppo": "total_env_steps", "cnn": "total_env_steps", "evaluation": "episodes"}
"""The setting that says how long a run of a stage is."""
STAGES = ("base_model", "sft_data", "sft", "ppo", "cnn", "evaluation")
TRAININGS = ("sft", "ppo", "cnn")
"""The stages of `STAGES` with one run for each training seed."""


def pages(*, tables: Path, out: Path, command: str = "snakemake --cores all") -> dict[Path, str]:
    """README's table and the page with all results, from built tables and the records of the runs behind them.

    Args:
        tables: folder of built tables, inside of a results folder.
        out: folder of assets, with copies of the figures; the page may lie beside it, see `page_in`.
        command: how Snakemake is called for these results, without targets.

    Returns:
        The text of each file.

    Raises:
        ValueError: a table or a record is missing; the error names it.
    """
    check_unchanged(tables)
    page = page_in(out)
    images = Path(os.path.relpath(out, page.parent)).as_posix()
    return {
        out / README_TABLE: readme_table(tables / "main.csv", read_record(tables / RECORD)) + "\n",
        page: results_page(tables, images, command),
    }


def readme_table(main_csv: Path, record: Mapping[str, Any]) -> str:
    """README's table in Markdown: seven methods by the four card games and ALFWorld.

    Args:
        main_csv: the main table.
        record: the `run.json` of the tables.
    """
    rows = pd.read_csv(existing(main_csv)).assign(partial=False)
    held_out = rows[(rows["source"] == "reproduced") & (rows["protocol"] == HELD_OUT)]
    held_out = held_out[held_out["method"].isin(SHOWN) & held_out["task"].isin([*CARD_TASKS, ALFWORLD])]
    chosen, headings = _one_set_of_games(held_out)
    published = rows[(rows["source"] == "published") & (rows["scale"] == PAPER_SCALE) & (rows["method"] == "RL4VLM")]
    lines = [_line(label_of(method), chosen[chosen["method"] == method]) for method in SHOWN]
    lines.append(_line("RL4VLM, published", published))
    table = pd.DataFrame(lines, columns=["method", *CARD_TASKS, ALFWORLD]).fillna("").rename(columns=headings)
    notes = [note for words, note in NOT_THE_BENCHMARK.items() if chosen["scale"].str.contains(words).any()]
    seeds = {len(str(named).split()) for named in chosen["seeds"].dropna()} or {1}
    least, most = min(seeds), max(seeds)
    several = str(most) if least == most else f"{least} to {most}"
    trained = "one training seed" if most == 1 else f"{several} training seeds"
    caption = (
        f"Success rates in percent. Reproduced: scale `{record['settings']['scale']}`, {trained}, held-out episodes, "
        "with 95 % intervals. Published: the paper's 7B model, by its own protocol (best rolling success rate during "
        "training)."
    )
    caption += "".join(f" {note}, not the benchmark's: do not compare the published rate with these." for note in notes)
    return f"{markdown(table, words=1)}\n\n{caption}"


def _one_set_of_games(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Of each task, the rows of its unseen games or, if no set is called unseen, of the set that most methods played.

    Returns:
        The rows, and the heading of each task's column. It names the set where there are several.
    """
    unseen = rows["scale"].str.endswith("unseen")
    shown = rows[unseen | ~rows["task"].isin(rows.loc[unseen, "task"])]
    headings, parts = {ALFWORLD: "ALFWorld"}, [shown.iloc[:0]]
    for (task,), found in groups(shown, "task"):
        label = str(found["scale"].value_counts(sort=False).idxmax())  # the first among equals
        parts.append(found[found["scale"] == label])
        _, comma, games = label.rpartition(", ")
        if comma and rows.loc[rows["task"] == task, "scale"].nunique() > 1:
            headings[task] = f"{headings.get(task, task)} ({games} games)"
    return pd.concat(parts), headings


def _line(label: str, rows: pd.DataFrame) -> dict[str, str]:
    return {"method": label, **{str(row["task"]): rate_cell(row) for _, row in rows.iterrows()}}


def results_page(tables: Path, images: str, command: str) -> str:
    """The page with all tables and figures, and what made them.

    Args:
        tables: folder of built tables, inside of a results folder.
        images: path from the page to the folder with the figures.
        command: how Snakemake is called for these results, without targets.
    """
    results, record = tables.parent, read_record(tables / RECORD)
    files = [place_of(entry["path"]) for entry in record["inputs"].values()]
    folders = {os.path.dirname(file) for file in files if file.endswith((SUMMARY, METRICS))}
    parts = [
        "# Results",
        f"All numbers here are of scale `{record['settings']['scale']}`. The rule `readme_assets` makes this page from "
        "tables, figures and run records; do not edit it by hand.",
        "## How to read them",
        READING,
        "## What made them",
        f"`{command}` makes all of it again; with `-- TARGET` at its end, only that: a line below, a table, a figure.",
        markdown(_experiments(results, runs_behind(results, folders)), words=1),
        _versions(record),
    ]
    shown = tables_in(record)
    for name in shown:
        table = read_text(tables / f"{name}.md").strip()
        parts += [f"## Table: {TABLES[name]}", table, _made_by(command, tables / f"{name}.csv")]
    for name in figures_beside(shown):
        title = name.replace("_", " ")
        made_by = _made_by(command, results / "figures" / f"{name}.png")
        parts += [f"## Figure: {title}", f"![{title}]({images}/{name}.png)", made_by]
    return "\n\n".join(parts) + "\n"


def _made_by(command: str, file: Path) -> str:
    # --configfile takes every word after it for a file, up to `--`.
    return f"Made by `{command} -- {file}`."


READING = """\
- *Held out*: success rate over episodes with fixed seeds that no training uses. In brackets, its 95 % interval:
  Wilson's for one training seed, otherwise a bootstrap of training seeds and of the episodes that they share. Two or
  three seeds are few: where they differ much, the interval is too narrow.
- *Differences* are taken on the same episodes and the same training seeds. Verdicts: better, worse or undecided.
- *Rolling peak*: the paper's protocol, the highest success rate over the last training episodes at any update. As a
  maximum it tends to exceed the held-out rate of the same run; the table of ceilings says by how much.
- *Published*: the paper's numbers, by that protocol, of a 7B model; those of later works by various protocols.
- *Reference*: rates of simple policies, enumerated or measured on the rules of the games.
- λ, `thought_prob_coef` in the config, weighs the log-probability of the thoughts in PPO (the paper's equation 4)."""


class _Machine(BaseModel):
    gpus: list[str] = []
    processor: str | None = None
    cores: int | None = None


class _Shown(BaseModel):
    """What the page shows of a run's record."""

    seed: int | None
    size: int | None
    thought_prob_coef: float | None
    seconds: float = 0.0
    hardware: _Machine | None = None


def _experiments(results: Path, places: Iterable[str]) -> pd.DataFrame:
    """One line per experiment (all seeds of a training; all evaluations of a task): seeds, size, time, machine, target.

    Args:
        results: the results folder.
        places: run folders in it, such as `ppo/<run>`.
    """
    rows = pd.DataFrame([_run(results, place, read_record(results / place / RECORD)) for place in places])
    lines = [
        {
            "experiment": what,
            "runs": str(len(found)),
            "training seeds": _list(found["seed"]) if stage in TRAININGS else "",
            "env steps or episodes": _span(found["size"]),
            "hours": f"{found['seconds'].sum() / 3600:.2f}",
            "CPU hours": _cpu_hours(found["cpu"]),
            "machine": _list(found["hardware"]),
            "code": _list(found["revision"]),
            "target": f"`{results / _target(stage, list(found['place']))}`",
        }
        for stage in STAGES
        for (what,), found in groups(rows[rows["stage"] == stage], "what")
    ]
    return pd.DataFrame(lines)


def _run(results: Path, place: str, record: Mapping[str, Any]) -> dict[str, Any]:
    stage, settings = record["stage"] or "", record["settings"]
    found = {
        **record,
        "seed": record["seeds"].get(stage),
        "size": settings.get(SIZES.get(stage, "")),
        "thought_prob_coef": settings.get("thought_prob_coef"),
    }
    shown = checked(_Shown, found, results / place / RECORD)
    weight = "" if shown.thought_prob_coef is None else f"λ {shown.thought_prob_coef:g}"
    # SFT on ready demonstrations, or of an older version, names no task. So trainings are called by their folders.
    name = experiment_of(PurePosixPath(place).name)
    what = settings.get("task", "") if stage == "evaluation" else name
    return {
        "stage": stage,
        "what": " ".join(word for word in (stage.replace("_", " "), what, weight) if word),
        "place": place,
        "seed": shown.seed,
        "size": shown.size,
        "seconds": shown.seconds,
        "cpu": _cpu_seconds(results / "benchmarks", place),
        "revision": _revision(record),
        "hardware": _hardware(shown.hardware),
    }


def _cpu_seconds(benchmarks: Path, place: str) -> float:
    """CPU time of a run from its benchmark file of Snakemake; NaN without one (a rule with `cache:` writes none).

    A job that plays several sets of games has one file, that of the first set: the others add 0 to it.
    """
    benchmark, first = (benchmarks / f"{name}.tsv" for name in (place, place.partition(GAMES_MARK)[0]))
    if not benchmark.is_file():
        return 0.0 if first.is_file() and pd.notna(_cpu_time(first)) else float("nan")
    return _cpu_time(benchmark)


def _cpu_time(benchmark: Path) -> float:
    """The sum of a benchmark file's column `cpu_time`; NaN if that is empty."""
    found = pd.read_csv(benchmark, sep="\t", na_values="-")
    return float(found["cpu_time"].sum(min_count=1))


def _cpu_hours(seconds: pd.Series) -> str:
    """The sum over an experiment's runs, and how many of them it is of if some have no time."""
    known = seconds.dropna()
    if known.empty:
        return ""
    of = "" if len(known) == len(seconds) else f" ({len(known)} of {len(seconds)} runs)"
    return f"{known.sum() / 3600:.2f}{of}"


def _target(stage: str, places: Sequence[str]) -> str:
    """The target for Snakemake as one word for a shell, with the runs of all seeds in braces."""
    if stage == "evaluation":
        return "tables/main.csv"
    if stage not in TRAININGS:
        return places[0]
    before, seeds = places[0].rpartition("-seed")[0], [place.rpartition("-seed")[2] for place in places]
    listed = seeds[0] if len(seeds) == 1 else f"{{{','.join(sorted(seeds, key=int))}}}"
    return f"{before}-seed{listed}/{RECORD}"


def _revision(record: Mapping[str, Any]) -> str | None:
    code = record.get("code", {})
    return f"{str(code['revision'])[:10]}{', changed' if code.get('changed') else ''}" if code.get("revision") else None


def _hardware(machine: _Machine | None) -> str | None:
    if machine is None or machine.processor is None:
        return None
    return ", ".join([*machine.gpus, f"{machine.processor}", f"{machine.cores} cores"])


def _list(values: pd.Series) -> str:
    found = values.dropna().unique()
    return "; ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in sorted(found))


def _span(values: pd.Series) -> str:
    found = sorted({int(value) for value in values.dropna()})
    return "" if not found else f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _versions(record: Mapping[str, Any]) -> str:
    """The versions of the main packages, as the tables' record has them."""
    names = ("python", "torch", "transformers", "peft", "gymnasium", "alfworld", "numpy")
    found: Iterator[str] = (f"{name} {record['packages'][name]}" for name in names if name in record["packages"])
    return f"Versions: {', '.join(found)}. Every run's own `{RECORD}` has all of its settings, seeds and versions."


def existing(file: Path) -> Path:
    """The same file. Raises ValueError if it is missing."""
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    return file

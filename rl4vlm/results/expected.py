"""The files that a finished run of the workflow leaves, and what is wrong with the ones that are there."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl4vlm.config.base_models import EMBEDDED, base_models
from rl4vlm.config.load import thought_prob_coef
from rl4vlm.config.run_names import DATA_NAME, KEPT_NAME
from rl4vlm.config.runs import ablation_runs, cnn_runs, evaluation_runs, kept_policies, ppo_runs, sft_runs
from rl4vlm.config.stages.cnn import CNN_CONFIG
from rl4vlm.core.files import RECORD, parse_json, sha256_of
from rl4vlm.core.output import check_unchanged
from rl4vlm.core.types import Style
from rl4vlm.results import names
from rl4vlm.results.output_record import differences, read_output_record
from rl4vlm.results.provenance import CHECKPOINT, DATA, EPISODES, MANIFEST, METRICS, PERCEPTION, SUMMARY, TIMING

SIGNATURES = {".png": b"\x89PNG", ".pdf": b"%PDF", ".html": b"<!"}
"""First bytes of files by suffix."""
MADE_OF_RESULTS = ("tables", "figures", "gallery")
"""The folders whose records list the results that they were made from."""
TEXTS = (".json", ".jsonl", ".csv", ".md", ".tex")


def expected_tables(config: Mapping[str, Any]) -> list[str]:
    """The tables that a config asks for: all, but `cot`, `lambda` and `ablations` only if the config has such runs."""
    missing = {
        "cot": len(config["styles"]) < len(Style),
        "lambda": all(run.thought_prob_coef == thought_prob_coef(config, run.task) for run in ablation_runs(config)),
        "ablations": not any(run.variant for run in ppo_runs(config)),
    }
    return [name for name in names.TABLES if not missing.get(name)]


def expected_files(config: Mapping[str, Any]) -> list[Path]:
    """Every file that a finished run of a config leaves: tables, figures, the report, each run's results and record."""
    results, assets = Path(config["results_dir"]), Path(config["assets_dir"])
    training = (METRICS, TIMING, RECORD)
    tables = expected_tables(config)
    files = [results / "report.html", results / "gallery" / "index.html", *names.asset_files(assets, tables)]
    files += [results / "tables" / name for name in names.table_files(tables)]
    files += [results / "figures" / name for name in names.figure_files(tables)]
    files += [results / "figures" / f"{name}.{RECORD}" for name in names.figures_beside(tables)]
    files += [results / folder / RECORD for folder in ("tables", "gallery")]
    for model in base_models(config).values():
        if model.kind == "hub":
            # Its weights are in one file or in several: the record lists them.
            files += [results / "base_model" / model.name / name for name in ("config.json", RECORD)]
        elif model.kind in EMBEDDED:
            made = ("config.json", "model.safetensors", PERCEPTION)
            files += [results / "base_model" / model.name / name for name in made]
    for evaluation in evaluation_runs(config):
        files += [results / "eval" / evaluation.name / name for name in (SUMMARY, EPISODES, RECORD)]
    for run, kept in kept_policies(config):
        files += [results / KEPT_NAME.format(run=run.name, kept=kept) / name for name in (SUMMARY, EPISODES, RECORD)]
    for start in sft_runs(config):
        files += [results / "sft" / start.name / name for name in (METRICS, RECORD, f"{CHECKPOINT}/config.json")]
    for run in ppo_runs(config):
        files += [results / "ppo" / run.name / name for name in (*training, f"{CHECKPOINT}/config.json")]
    for baseline in cnn_runs(config):
        files += [results / "cnn" / baseline.name / name for name in (*training, f"{CHECKPOINT}/{CNN_CONFIG}")]
    for task in config["tasks"]:
        for style in config["styles"]:
            demonstrations = DATA_NAME.format(task=task, style=style)
            if demonstrations not in config["sft_data"]["given"]:
                files += [results / "sft_data" / demonstrations / name for name in (DATA, MANIFEST, RECORD)]
    return files


def problems(files: Sequence[Path]) -> list[str]:
    """A message for each file that is missing, empty or not of the kind that its name says.

    For each record, there is also a message if a file is not the one that it lists, and for each of tables, figures and
    gallery one if it was made from other files than those that are there now.
    """
    found = {path: problem for path in files if (problem := _problem(path))}
    for folder in {path.parent: None for path in files if path.name == RECORD}:
        if not any(folder in path.parents for path in found):
            try:
                check_unchanged(folder)
            except ValueError as error:
                found[folder] = str(error)
    stale = []
    for path in files:
        if path.name.endswith(RECORD) and path.parent.name in MADE_OF_RESULTS and not {path, path.parent} & {*found}:
            results = path.parents[1]
            made = read_output_record(results, path.relative_to(results).as_posix())
            stale += [f"{path}: {difference}" for difference in differences(results, made)]
            if path.name != RECORD:  # the record of one figure, beside those of others
                for changed in _changed(path, made.outputs):
                    found.setdefault(changed, f"not the file that {path.name} lists")
    return [*(f"{path}: {problem}" for path, problem in found.items()), *stale]


def _changed(record: Path, outputs: Mapping[str, str]) -> Iterator[Path]:
    """The files beside a record that it lists with another SHA-256."""
    for name, sha256 in outputs.items():
        if sha256_of(record.parent / name) != sha256:
            yield record.parent / name


def _problem(path: Path) -> str | None:
    if not path.is_file():
        return "missing"
    content = path.read_bytes()
    if not content.strip():
        return "empty"
    if path.suffix in SIGNATURES:
        return None if content.lstrip().startswith(SIGNATURES[path.suffix]) else f"not a {path.suffix[1:]} file"
    return _malformed(path.suffix, content) if path.suffix in TEXTS else None


def _malformed(suffix: str, content: bytes) -> str | None:
    try:
        text = content.decode("utf-8")
        if suffix == ".json":
            parse_json(text, "it")
        elif suffix == ".jsonl":
            # splitlines would also split at separators that a JSON string may hold, such as U+2028.
            for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
                parse_json(line, f"line {number}")
    except UnicodeDecodeError as error:
        return f"not text: {error}"
    except ValueError as error:
        return str(error)
    if suffix == ".csv" and len(list(csv.reader(text.splitlines()))) < 2:
        return "a table without rows"
    return None

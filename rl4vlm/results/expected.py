"""What a finished run of the workflow promises, said apart from the rules that make it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl4vlm.config.base_models import EMBEDDED, base_models
from rl4vlm.config.runs import cnn_runs, evaluation_runs, ppo_runs

TABLES = ("main", "cot", "lambda", "perception")
FIGURES = ("training_curves", "cot_ablation", "lambda_ablation", "logprob_balance", "perception")
SIGNATURES = {".png": b"\x89PNG", ".pdf": b"%PDF", ".html": b"<!"}
"""How files of these kinds begin."""
TEXTS = (".json", ".jsonl", ".csv", ".md", ".tex")


def promised_files(config: Mapping[str, Any]) -> list[Path]:
    """Every file that the README promises for a config: tables, figures, report, and each run's results and record."""
    results, assets = Path(config["results_dir"]), Path(config["assets_dir"])
    files = [results / "report.html", results / "gallery" / "index.html"]
    files += [assets / name for name in ("games.png", "training_curves.png", "results.md")]
    files += [results / "tables" / f"{name}.{kind}" for name in TABLES for kind in ("csv", "md", "tex")]
    files += [results / "figures" / f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "png", "run.json")]
    files += [results / folder / "run.json" for folder in ("tables", "gallery")]
    for model in base_models(config).values():
        if model.kind != "folder":
            files += [results / "base_model" / model.name / name for name in ("config.json", "model.safetensors")]
        if model.kind in EMBEDDED:
            files += [results / "base_model" / model.name / "perception.json"]
    for run in evaluation_runs(config):
        files += [results / "eval" / run.name / name for name in ("summary.json", "episodes.jsonl", "run.json")]
    for training in ppo_runs(config):
        folder = results / "ppo" / training.name
        files += [folder / name for name in ("metrics.jsonl", "timing.jsonl", "run.json", "checkpoint/config.json")]
    for baseline in cnn_runs(config):
        folder = results / "cnn" / baseline.name
        files += [folder / name for name in ("metrics.jsonl", "timing.jsonl", "run.json", "checkpoint/cnn.json")]
    for task in config["tasks"]:
        for style in config["styles"]:
            data, tuned = results / "sft_data" / f"{task}-{style}", results / "sft" / f"{task}-{style}"
            if f"{task}-{style}" not in config["sft_data"]["given"]:
                files += [data / name for name in ("data.json", "manifest.json", "run.json")]
            files += [tuned / name for name in ("metrics.jsonl", "run.json", "checkpoint/config.json")]
    return files


def shortcomings(files: Sequence[Path]) -> list[str]:
    """What is wrong with these files: missing, empty, or not of the kind that their names say."""
    found = [(path, _shortcoming(path)) for path in files]
    return [f"{path}: {problem}" for path, problem in found if problem]


def _shortcoming(path: Path) -> str | None:
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
            json.loads(text)
        elif suffix == ".jsonl":
            for line in text.splitlines():
                json.loads(line)
    except UnicodeDecodeError as error:
        return f"not text: {error}"
    except json.JSONDecodeError as error:
        return f"not JSON: {error}"
    if suffix == ".csv" and len(list(csv.reader(text.splitlines()))) < 2:
        return "a table without rows"
    return None

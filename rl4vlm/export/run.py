"""Export a checkpoint: merged weights under the hub's names, which vLLM loads, and a model card of its run."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.utils import validate_repo_id

from rl4vlm.core.files import RECORD, atomic_write_text, sha256_of
from rl4vlm.core.output import stage_output
from rl4vlm.models.hub_names import use_hub_names
from rl4vlm.models.loading import DTYPES, Backbone, check_language, load_backbone
from rl4vlm.models.lora import merge
from rl4vlm.results.lineage import run_that_wrote
from rl4vlm.results.origin import origin_of_run
from rl4vlm.results.provenance import inputs_now, read_record, record_of, write_run_record
from rl4vlm.results.read import load_summary

LIMITS = """The model was trained to play one game: it reads that game's images and prompts, and answers with a JSON
object of its thoughts and an action. What it says of anything else was not evaluated. The rates below hold for the
settings and seeds of their episodes."""
SHOWN = ("task", "episodes", "success_rate", "ci_low", "ci_high")
"""Entries of a summary that the card shows."""


def run(*, checkpoint: Path, out: Path, dtype: str, evaluations: Sequence[Path] = (), push: str | None = None) -> None:
    """Write a checkpoint for other programs to a folder, and upload that if `push` names a repository of the hub.

    Args:
        checkpoint: folder of a vision-language model, with or without adapters, below the folder of its run.
        out: folder to write.
        dtype: number format of the written weights, a key of `DTYPES`.
        evaluations: folders of evaluations of this checkpoint, whose results the card shows.
        push: `owner/name` of the repository; it is created, private, if it is not there.

    Raises:
        ValueError: `checkpoint` is none of a vision-language model; the run has no `run.json`; an evaluation is of
            another checkpoint, or its summary is missing or damaged; `out` holds something else; `push` is no name of a
            repository; or the hub refused the upload, or cannot be reached.
    """
    started, where = time.monotonic(), record_of(checkpoint)
    check_language(checkpoint)  # the record is not beside a run's folder, but in it
    if push is not None:
        validate_repo_id(push)
    inputs = inputs_now({"checkpoint": checkpoint})
    card = model_card(read_record(where), _summaries(evaluations, checkpoint), where)
    # Merged in float32 and rounded once: products of adapters are smaller than the steps of a bfloat16 weight.
    backbone = load_backbone(checkpoint, dtype="float32")
    model = merge(backbone.model).to(DTYPES[dtype])
    with stage_output(out, ["export"]) as folder:
        use_hub_names(model)
        Backbone(model, backbone.processor).save(folder)
        atomic_write_text(folder / "README.md", card)
        write_run_record(
            folder,
            stage="export",
            settings={"dtype": dtype},
            seeds={},
            inputs=inputs,
            seconds=time.monotonic() - started,
        )
    if push is not None:
        _upload(out, push)


def _summaries(evaluations: Sequence[Path], checkpoint: Path) -> list[Mapping[str, Any]]:
    """The summaries of evaluations, each of which must be of this checkpoint."""
    checksum = sha256_of(checkpoint) if evaluations else None  # it reads all weights
    found = []
    for place in evaluations:
        found.append(load_summary(place, SHOWN))
        played = read_record(place / RECORD)["inputs"].get("policy", {})
        if played.get("sha256") != checksum:
            raise ValueError(
                f"{place} evaluated {played.get('path', 'no checkpoint')}, not the weights of {checkpoint}"
            )
    return found


def _upload(folder: Path, repository: str) -> None:
    # Imported here, because nothing else needs the network.
    from httpx import HTTPError
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder)
    except (HTTPError, OSError) as error:
        raise ValueError(
            f"{folder} is written, but was not pushed to {repository}: {error}. To push it without making it again: "
            f"hf upload --private {shlex.join([repository, str(folder)])}"
        ) from error


def model_card(record: Mapping[str, Any], summaries: Sequence[Mapping[str, Any]], where: Path) -> str:
    """The card (Markdown with the hub's header): how the model was made, what it reaches, and its limits.

    Args:
        record: the `run.json` of its training.
        summaries: of its evaluations.
        where: the record's file. From there, the records of the trainings that it started from are found.

    Raises:
        ValueError: the record is not of a training.
    """
    made_by = origin_of_run(record, None, where)
    if made_by is None:
        raise ValueError(f"{where} is not the record of a training")
    settings = {name: value for name, value in record["settings"].items() if value not in (None, {}, [])}
    task = settings.get("task")
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "---",
        f"# {made_by.method}{f' on {task}' if task else ''}",
        "",
        f"Made by the stage `{record['stage']}` of rl4vlm, which reproduces arXiv 2405.10292.",
        "",
        "## Limits",
        "",
        LIMITS,
        "",
        "## Results",
        "",
        "| task | episodes | success, % | 95 % interval |",
        "| --- | --: | --: | --: |",
        *map(_result, summaries),
        "",
        "## Data and code",
        "",
        *_inputs(record, where),
        *(f"- seed of {name}: {seed}" for name, seed in record["seeds"].items()),
        f"- revision of the code: {record['code'].get('revision') or 'not known'}",
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(settings, indent=2, ensure_ascii=False),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _inputs(record: Mapping[str, Any], where: Path, indent: str = "") -> Iterator[str]:
    """A list of a run's inputs; below `init`, the inputs of the training that made it, if its record is there."""
    for name, entry in record["inputs"].items():
        sha256 = entry.get("sha256")  # None for a name on the hub
        yield f"{indent}- {name}: `{entry['path']}`" + (f", SHA-256 {sha256}" if sha256 else "")
        before = _record_of_start(entry, where) if name == "init" else None
        if before is not None:
            yield from _inputs(read_record(before), before, indent + "  ")


def _record_of_start(entry: Mapping[str, Any], where: Path) -> Path | None:
    """The `run.json` of the training that made the checkpoint which a run started from; None if it is not there.

    Args:
        entry: the run's input `init`.
        where: the run's own record, `<results>/<stage>/<run>/run.json`.
    """
    # The path may be relative to another working folder, and the results may have been moved since.
    for results in (None, where.parent.parent.parent):
        folder = run_that_wrote(entry, results)
        before = folder / RECORD if folder else where
        # A base model has no training behind it.
        if before != where and before.is_file() and read_record(before)["stage"] in ("sft", "ppo"):
            return before
    return None


def _result(summary: Mapping[str, Any]) -> str:
    task = f"{summary['task']} ({summary['games']})" if summary.get("games") else summary["task"]
    rate, low, high = (summary[name] for name in ("success_rate", "ci_low", "ci_high"))
    return f"| {task} | {summary['episodes']} | {rate:.1f} | {low:.1f} to {high:.1f} |"

"""The argument parser with all subcommands. To add one, write a call here and a function in `commands`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from rl4vlm.cli import commands, options
from rl4vlm.config.fields import DType
from rl4vlm.config.scripted import SCRIPTED
from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.config.stages.cnn import CNNSettings
from rl4vlm.config.stages.evaluation import EvaluationSettings, PlaySettings
from rl4vlm.config.stages.figures import FigureSettings
from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.config.stages.pretrain import PretrainSettings
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.results.names import FIGURES

AddStage = Callable[[str, Callable[[argparse.Namespace], None], str], options.StageParser]
"""Adds a subcommand, given its name, its function and its help text. Returns its parser, which takes its arguments."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands. A parsed line has the subcommand's name as `name`, its function as `stage`."""
    parser = argparse.ArgumentParser(
        prog="rl4vlm",
        description="Fine-tune vision-language models as decision-making agents. Every stage reads files and writes "
        "files; `snakemake --cores all` runs them all in order.",
    )
    stages = parser.add_subparsers(dest="name", metavar="STAGE", required=True, parser_class=options.StageParser)

    def add(name: str, stage: Callable[[argparse.Namespace], None], text: str) -> options.StageParser:
        sub = stages.add_parser(name, help=text, description=text)
        sub.set_defaults(stage=stage)
        return sub

    _playing(add)
    _training(add)
    _evaluating(add)
    _showing(add)
    _sharing(add)
    _documenting(add)
    return parser


def _scripted() -> str:
    """The names of the scripted policies, for help texts; with the tasks of a policy that cannot play all of them."""
    names = []
    for name, policy in SCRIPTED.items():
        names.append(f"`{name}` ({', '.join(policy.tasks)})" if policy.tasks else f"`{name}`")
    return ", ".join(names)


def _playing(add: AddStage) -> None:
    add("tasks", commands.list_tasks, "List the known tasks, and how often random and optimal play wins them.")

    sub = add("play", commands.play, "Play one episode in the terminal, by hand or by a policy.")
    sub.add_argument("task", metavar="TASK", help="as listed by `rl4vlm tasks`")
    sub.add_argument(
        "--policy",
        default="human",
        metavar="POLICY",
        help=f"`human` (default), or what `rl4vlm evaluate` takes: {_scripted()}, a checkpoint folder, `api:MODEL`",
    )
    sub.add_argument("--seed", type=options.whole(0), help="seed of the episode (default: a random one)")
    options.played_style(sub)
    sub.add_argument("--gif", type=Path, metavar="FILE", help="save the episode as an animated GIF")
    options.config_files(sub, "describe an `api:MODEL`")
    options.settings(sub, PlaySettings)


def _training(add: AddStage) -> None:
    sub = add("base-model", commands.base_model, "Build and pre-train the embedded base model, or get a ready one.")
    options.out(sub, "checkpoint folder to write")
    ready = sub.add_mutually_exclusive_group()
    ready.add_argument("--copy", type=Path, metavar="DIR", help="copy this ready checkpoint instead of training one")
    ready.add_argument("--download", metavar="NAME", help="download this model of the Hugging Face hub instead")
    sub.add_argument("--revision", metavar="REV", help="branch, tag or commit of --download (default: the newest)")
    options.state(sub)
    options.settings(sub, PretrainSettings)

    sub = add(
        "alfworld-games", commands.alfworld_games, "Generate ALFWorld games if you do not have the official ones."
    )
    options.out(sub, "folder to write")
    sub.add_argument(
        "--processes", type=options.whole(1), metavar="N", help="number of planner processes (default: one per core)"
    )
    options.settings(sub, GamesSettings)

    sub = add(
        "sft-data", commands.sft_data, "Write a solver's demonstrations as LLaVA JSON with images and a manifest."
    )
    options.task(sub)
    options.style(sub)
    options.out(sub, "folder to write")
    options.state(sub)
    options.settings(sub, SFTDataSettings)

    sub = add("sft", commands.sft, "Fine-tune a model on demonstrations.")
    sub.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="demonstrations, as `sft-data` writes them"
    )
    options.init(sub)
    options.out(sub, "folder to write checkpoint/ and metrics to")
    options.state(sub)
    options.settings(sub, SFTSettings)

    sub = add("ppo", commands.ppo, "Fine-tune a model by playing a task.")
    options.task(sub)
    options.style(sub)
    options.init(sub)
    options.seed(sub)
    options.out(sub, "folder to write checkpoint/ and metrics to")
    options.state(sub)
    options.settings(sub, PPOSettings)

    sub = add("cnn", commands.cnn, "Train the CNN+RL baseline, a small network without language, by playing a task.")
    options.task(sub)
    options.seed(sub)
    options.out(sub, "folder to write checkpoint/ and metrics to")
    options.state(sub)
    options.settings(sub, CNNSettings)

    sub = add("memory", commands.memory, "Estimate the memory that a model needs, from its config alone.")
    sub.add_argument(
        "--model", metavar="MODEL", help="checkpoint folder, Hugging Face name or known shape (default: all of these)"
    )
    sub.add_argument(
        "--config",
        nargs="+",
        type=Path,
        metavar="FILE",
        help=f"overlays of {options.WORKFLOW_CONFIG}; shows memory, disk and hours by stage instead. --model then "
        "replaces the base models of all tasks",
    )
    page = "from the page of `make gpu-check`"
    for name, what in (
        ("played", f"environment steps per second, {page}"),
        ("scored", f"replies scored again before an update, per second, {page}"),
        ("trained", f"samples per second in one epoch of a PPO update, {page}"),
        ("sft", "samples per second of supervised fine-tuning, measured by you"),
    ):
        sub.add_argument(
            f"--{name}-per-second",
            type=options.rate,
            metavar="N",
            help=what,
        )
    options.settings(sub, MemorySettings)


def _evaluating(add: AddStage) -> None:
    sub = add("evaluate", commands.evaluate, "Play held-out episodes and report the success rate with its interval.")
    sub.add_argument(
        "policy",
        metavar="POLICY",
        help=f"{_scripted()}, a checkpoint folder, `served:FOLDER` (the same, asked over HTTP) or `api:MODEL` of the "
        "config's api_models",
    )
    sub.add_argument("task", metavar="TASK", help="as listed by `rl4vlm tasks`")
    options.played_style(sub)
    sub.add_argument(
        "--out", type=options.folder, metavar="DIR", help="folder to write (default: evaluation/<POLICY>-<TASK>)"
    )
    sub.add_argument(
        "--also",
        action="append",
        nargs="+",
        default=[],
        metavar=("GAMES", "KEY=VALUE"),
        help="evaluate another set of games, too, in the same process, into DIR@GAMES; KEY=VALUE override --set",
    )
    options.state(sub)
    options.config_files(sub, "describe an `api:MODEL`")
    options.settings(sub, EvaluationSettings)


def _showing(add: AddStage) -> None:
    sub = add("tables", commands.tables, "Write the result tables as CSV, Markdown and LaTeX.")
    options.results(sub)
    options.out(sub, "folder to write")

    sub = add("figure", commands.figure, "Draw a figure as PDF and PNG.")
    sub.add_argument("figure", metavar="NAME", help=", ".join(FIGURES))
    options.results(sub)
    options.out(sub, "folder to write")
    options.settings(sub, FigureSettings)

    sub = add("gallery", commands.gallery, "Show sample episodes step by step in one HTML file.")
    options.results_folder(sub)
    options.evaluations(sub)
    options.scale(sub)
    options.out(sub, "folder to write index.html to")
    options.settings(sub, GallerySettings)

    sub = add("readme-assets", commands.readme_assets, "Write README's images and table, and the page of all results.")
    sub.add_argument("--figures", type=Path, required=True, metavar="DIR", help="folder of drawn figures")
    sub.add_argument("--tables", type=Path, required=True, metavar="DIR", help="folder of tables in a results folder")
    sub.add_argument(
        "--command",
        default="snakemake --cores all",
        help="how Snakemake is called for these results, for the page (default: %(default)s)",
    )
    sub.add_argument("--readme", type=Path, metavar="FILE", help="also put the table between the markers of this file")
    options.out(sub, "folder to write")

    text = "Check that every file of a finished run is there and whole, and that its tables bear out the claims."
    sub = add("check-results", commands.check_results, text)
    sub.add_argument(
        "--claims",
        type=Path,
        metavar="FILE",
        help="claims by the config's `results_dir` (default: claims.yaml, if there is one)",
    )
    sub.add_argument(
        "--config",
        nargs="*",
        type=Path,
        default=[],
        metavar="FILE",
        help="overlays, as for snakemake",
    )


def _documenting(add: AddStage) -> None:
    sub = add("settings-docs", commands.settings_docs, "Write the page about all settings.")
    sub.add_argument(
        "--out",
        type=Path,
        default=Path("docs/settings.md"),
        metavar="FILE",
        help="page to write (default: docs/settings.md)",
    )


def _sharing(add: AddStage) -> None:
    sub = add("export", commands.export, "Write a checkpoint for other programs: merged weights, and a model card.")
    sub.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint folder of a run")
    options.out(sub, "folder to write")
    sub.add_argument("--dtype", default="bfloat16", choices=get_args(DType), help="of the weights (default: bfloat16)")
    sub.add_argument(
        "--evaluations", type=Path, nargs="*", default=[], metavar="DIR", help="evaluations that the card shows"
    )
    sub.add_argument("--push", metavar="REPO", help="upload it to this repository of the Hugging Face hub, too")

    sub = add(
        "archive",
        commands.archive,
        "Pack results, what they were made of and the code into one file, without weights, for others to check.",
    )
    options.results_folder(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="ZIP archive to write")
    sub.add_argument(
        "--code", type=Path, default=Path(), metavar="DIR", help="the project's git checkout (default: this folder)"
    )
    options.config_files(sub, "made the results")
    options.words(sub, "values that the config had over those of its files")

    sub = add(
        "verify-archive",
        commands.verify_archive,
        "Check an unpacked archive, and that its tables and figures can be rebuilt byte for byte.",
    )
    sub.add_argument("archive", type=Path, metavar="DIR", help="folder that it was unpacked to")

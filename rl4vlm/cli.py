"""The command line, `rl4vlm <stage>`: parse the arguments, build the settings, call the stage's one function.

Stages are imported where they are called, so that `rl4vlm --help` is instant and a stage without a model loads no
torch. The workflow does not watch this file: what a stage computes lies in its own module, and an edit here must not
retrain anything.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rl4vlm.core.config import api_settings, load_config, parse_settings, setting_words
from rl4vlm.core.types import Style


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit code. A ValueError, this package's word for wrong input, prints as one line."""
    args = build_parser().parse_args(arguments)
    if not sys.stderr.isatty():
        # Hugging Face's own bars are made for terminals; ours behave in a log file too.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        args.stage(args)
    except ValueError as error:
        if os.environ.get("RL4VLM_TRACEBACK"):
            raise
        print(f"rl4vlm {args.name}: error: {error} (RL4VLM_TRACEBACK=1 shows where)", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; what it parses holds the function to call as `stage`, the subcommand as `name`."""
    parser = argparse.ArgumentParser(
        prog="rl4vlm",
        description="Fine-tune vision-language models as decision-making agents. Every stage reads files and writes "
        "files; `snakemake --cores all` runs them all in order.",
    )
    stages = parser.add_subparsers(dest="name", metavar="STAGE", required=True)

    def add(name: str, stage: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = stages.add_parser(name, help=text, description=text)
        sub.set_defaults(stage=stage)
        return sub

    add("tasks", list_tasks, "List the known tasks, and how often random and optimal play wins them.")

    sub = add("play", play, "Play one episode in the terminal, by hand or by a policy.")
    sub.add_argument("task", metavar="TASK", help="as listed by `rl4vlm tasks`")
    sub.add_argument(
        "--policy",
        default="human",
        metavar="POLICY",
        help="`human` (default), or what `rl4vlm evaluate` takes: `random`, `solver`, a checkpoint folder, `api:MODEL`",
    )
    sub.add_argument("--seed", type=int, help="decides the start and all chance (default: another one each time)")
    _style(sub)
    sub.add_argument("--gif", type=Path, metavar="FILE", help="save the episode as an animated GIF")
    _api_config(sub)
    _settings(sub)

    sub = add("base-model", base_model, "Build and pre-train the embedded base model, or copy a ready one.")
    _out(sub, "checkpoint folder to write")
    sub.add_argument("--copy", type=Path, metavar="DIR", help="copy this ready checkpoint instead of training one")
    _settings(sub)

    sub = add("sft-data", sft_data, "Write a solver's demonstrations as LLaVA JSON with pictures and a manifest.")
    _task_and_style(sub)
    _out(sub, "folder to write")
    _settings(sub)

    sub = add("sft", sft, "Fine-tune a model on demonstrations.")
    sub.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="demonstrations, as `sft-data` writes them"
    )
    _init(sub)
    _out(sub, "folder to write checkpoint/ and metrics to")
    _settings(sub)

    sub = add("ppo", ppo, "Fine-tune a model by playing a task.")
    _task_and_style(sub)
    _init(sub)
    sub.add_argument("--seed", type=int, default=1, help="decides everything that is random (default: 1)")
    _out(sub, "folder to write checkpoint/ and metrics to")
    _settings(sub)

    sub = add("cnn", cnn, "Train the CNN+RL baseline, a small network without language, by playing a task.")
    _task(sub)
    sub.add_argument("--seed", type=int, default=1, help="decides everything that is random (default: 1)")
    _out(sub, "folder to write checkpoint/ and metrics to")
    _settings(sub)

    sub = add("evaluate", evaluate, "Play held-out episodes and report the success rate with its interval.")
    sub.add_argument(
        "policy",
        metavar="POLICY",
        help="`random`, `solver`, `stand17` (Blackjack), a checkpoint folder, `served:FOLDER` (the same, asked over "
        "HTTP) or `api:MODEL` of the config's api_models",
    )
    sub.add_argument("task", metavar="TASK", help="as listed by `rl4vlm tasks`")
    _style(sub)
    sub.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: evaluation/<POLICY>-<TASK>)")
    _api_config(sub)
    _settings(sub)

    sub = add("tables", tables, "Write the result tables as CSV, Markdown and LaTeX.")
    _results(sub)
    _out(sub, "folder to write")

    sub = add("figure", figure, "Draw a figure as PDF and PNG.")
    sub.add_argument(
        "figure", metavar="NAME", help="training_curves, cot_ablation, ...; a wrong name lists the right ones"
    )
    _results(sub)
    _out(sub, "folder to write")
    _settings(sub)

    sub = add("gallery", gallery, "Show sample episodes step by step in one HTML file.")
    _results_folder(sub)
    _evaluations(sub)
    _scale(sub)
    _out(sub, "folder to write index.html to")
    _settings(sub)

    sub = add("readme-assets", readme_assets, "Copy README's pictures and table from the results.")
    sub.add_argument("--figures", type=Path, required=True, metavar="DIR", help="folder of drawn figures")
    sub.add_argument("--tables", type=Path, required=True, metavar="DIR", help="folder of tables")
    sub.add_argument("--readme", type=Path, metavar="FILE", help="put the table between the markers of this file, too")
    _out(sub, "folder to write")

    sub = add("check-results", check_results, "Check that every file that a finished run promises is there.")
    sub.add_argument(
        "--config",
        nargs="*",
        type=Path,
        default=[],
        metavar="FILE",
        help="overlays, as for snakemake",
    )
    return parser


def list_tasks(args: argparse.Namespace) -> None:
    from rl4vlm.figures.published_data import reference_rates
    from rl4vlm.tasks.registry import get_task, task_names

    rates = {(rate.method, rate.task): f"{rate.success_rate:g} %" for rate in reference_rates()}
    row = "{:12} {:26} {:>8} {:>8}".format
    print(row("task", "gym id", "random", "optimal"))
    for name in task_names():
        print(row(name, get_task(name).gym_id, *(rates.get((method, name), "-") for method in ("random", "solver"))))


def play(args: argparse.Namespace) -> None:
    import secrets

    from rl4vlm.terminal.screen import find_screen
    from rl4vlm.terminal.session import PlaySettings, play

    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    print(f"{args.task}, played by {args.policy}, seed {seed}")
    play(
        task=args.task,
        policy=args.policy,
        style=args.style,
        seed=seed,
        settings=parse_settings(PlaySettings, _policy_settings(PlaySettings, args)),
        gif=args.gif,
        screen=find_screen(),
    )


def base_model(args: argparse.Namespace) -> None:
    from rl4vlm.models.pretrain import PretrainSettings, copy_shipped, run

    if args.copy:
        copy_shipped(source=args.copy, out=args.out)
    else:
        run(out=args.out, settings=parse_settings(PretrainSettings, args.set))


def sft_data(args: argparse.Namespace) -> None:
    from rl4vlm.sft.data import SFTDataSettings, run

    run(task=args.task, style=args.style, out=args.out, settings=parse_settings(SFTDataSettings, args.set))


def sft(args: argparse.Namespace) -> None:
    from rl4vlm.sft.train import SFTSettings, run

    run(data=args.data, init=args.init, out=args.out, settings=parse_settings(SFTSettings, args.set))


def ppo(args: argparse.Namespace) -> None:
    from rl4vlm.ppo.train import PPOSettings, run

    settings = parse_settings(PPOSettings, args.set)
    run(task=args.task, style=args.style, init=args.init, out=args.out, seed=args.seed, settings=settings)


def cnn(args: argparse.Namespace) -> None:
    from rl4vlm.ppo.cnn import CNNSettings, run

    run(task=args.task, out=args.out, seed=args.seed, settings=parse_settings(CNNSettings, args.set))


def evaluate(args: argparse.Namespace) -> None:
    from rl4vlm.evaluation.run import EvaluationSettings, run

    out = args.out or Path("evaluation", f"{_policy_label(args.policy)}-{args.task}")
    settings = parse_settings(EvaluationSettings, _policy_settings(EvaluationSettings, args))
    summary = run(policy=args.policy, task=args.task, style=args.style, out=out, settings=settings)
    print(
        f"{summary['method']} on {args.task}: {summary['success_rate']:.1f} % of {summary['episodes']} episodes won "
        f"(95 % interval {summary['ci_low']:.1f} to {summary['ci_high']:.1f}); written to {out}"
    )
    if summary["partial"]:
        print(f"This is a partial result, of {settings.episodes} episodes: {summary['stopped']}.")


def tables(args: argparse.Namespace) -> None:
    from rl4vlm.figures.tables import build_tables

    build_tables(out=args.out, **_read_results(args))


def figure(args: argparse.Namespace) -> None:
    from rl4vlm.figures.draw import draw
    from rl4vlm.figures.style import FigureStyle

    style = parse_settings(FigureStyle, args.set)
    draw(args.figure, out=args.out / args.figure, style=style, **_read_results(args))


def gallery(args: argparse.Namespace) -> None:
    from rl4vlm.gallery.build import GallerySettings, build_gallery

    settings = parse_settings(GallerySettings, args.set)
    folders = _folders(args.results / "eval", args.evaluations)
    file = build_gallery(evaluations=folders, scale=args.scale, out=args.out, settings=settings)
    print(f"{file} ({file.stat().st_size / 1e6:.1f} MB): open it in any browser")


def readme_assets(args: argparse.Namespace) -> None:
    from rl4vlm.figures.assets import insert_table, readme_assets

    readme_assets(figures=args.figures, tables=args.tables, out=args.out)
    if args.readme:
        insert_table(args.readme, args.out / "results.md")


def check_results(args: argparse.Namespace) -> None:
    from rl4vlm.core.config import load_config
    from rl4vlm.core.promised import promised_files, shortcomings

    files = promised_files(load_config([Path("config", "config.yaml"), *args.config]))
    problems = shortcomings(files)
    for problem in problems:
        print(problem)
    if problems:
        raise ValueError(f"{len(problems)} of {len(files)} promised files fall short")
    print(f"all {len(files)} promised files are there")


def _read_results(args: argparse.Namespace) -> dict[str, Any]:
    """Which results tables and figures are made of."""
    reading = args.results / "base_model" / "reading.json"
    return {
        "evaluations": _folders(args.results / "eval", args.evaluations),
        "ppo_runs": _folders(args.results / "ppo", args.ppo_runs),
        "base_reading": reading if reading.is_file() else None,
        "scale": args.scale,
        "main_lambda": dict(args.main_lambda),
    }


def _folders(parent: Path, names: list[str] | None) -> list[Path]:
    """The folders of these names, or all below `parent`."""
    if names is not None:
        return [parent / name for name in names]
    if not parent.is_dir():
        raise ValueError(f"no results at {parent}: there is no such folder")
    return sorted(folder for folder in parent.iterdir() if folder.is_dir())


def _api_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        nargs="*",
        type=Path,
        default=[Path("config/config.yaml")],
        metavar="FILE",
        help="config and overlays that describe an `api:MODEL` (default: config/config.yaml)",
    )


def _trained_with(checkpoint: Path) -> list[str]:
    """What the run record beside a PPO checkpoint says of how its policy plays, as `key=value` words."""
    file = checkpoint.parent / "run.json"
    record = json.loads(file.read_text(encoding="utf-8")) if checkpoint.is_dir() and file.is_file() else {}
    if record.get("stage") != "ppo":
        return []
    played = record["settings"]
    return setting_words({key: played[key] for key in ("temperature", "max_new_tokens", "env", "prompt")})


def _policy_label(policy: str) -> str:
    """A folder name for a policy; a run's folder `checkpoint` is known by the run's name."""
    path = Path(policy)
    return (path.resolve().parent.name if path.name == "checkpoint" else path.name).replace(":", "-")


def _policy_settings(kind: type[Any], args: argparse.Namespace) -> list[str]:
    """The `key=value` words of `--set`, after those of the config's entry for a policy `api:MODEL`.

    For a checkpoint that PPO made they come after those it was trained with: the temperature is part of a policy.

    A word `api={...}` describes the model by itself; the config is not read then.
    """
    name = args.policy.removeprefix("api:")
    if name == args.policy:
        return [*_trained_with(Path(args.policy)), *args.set]
    if any(word.startswith("api=") for word in args.set):
        return list(args.set)
    found = api_settings(load_config(args.config), name, args.task)
    known = {item.name for item in fields(kind)}
    return [*setting_words({key: value for key, value in found.items() if key in known}), *args.set]


def _results_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of results to read (default: results)",
    )


def _evaluations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--evaluations", nargs="*", metavar="RUN", help="evaluations to use (default: all in DIR/eval)")


def _scale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", default="embedded", help="label of these results (default: embedded)")


def _results(parser: argparse.ArgumentParser) -> None:
    _results_folder(parser)
    _evaluations(parser)
    _scale(parser)
    parser.add_argument("--ppo-runs", nargs="*", metavar="RUN", help="PPO runs to use (default: all in DIR/ppo)")
    parser.add_argument(
        "--main-lambda",
        nargs="*",
        type=_task_lambda,
        default=[],
        metavar="TASK=LAMBDA",
        help="which lambda is the method's own, where a task was trained with several",
    )


def _task_lambda(text: str) -> tuple[str, float]:
    task, _, value = text.partition("=")
    return task, float(value)


def _out(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=what)


def _init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--init", required=True, metavar="MODEL", help="checkpoint folder or Hugging Face name to start from"
    )


def _style(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--style",
        type=Style,
        choices=list(Style),
        default=Style.COT,
        help="replies with thoughts (cot) or the action alone (nocot); default: cot",
    )


def _task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, metavar="TASK", help="as listed by `rl4vlm tasks`")


def _task_and_style(parser: argparse.ArgumentParser) -> None:
    _task(parser)
    _style(parser)


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings that differ from the stage's defaults, as in the config; a wrong key lists the right ones",
    )

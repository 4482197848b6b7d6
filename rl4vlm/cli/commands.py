"""What each subcommand does with its parsed arguments: build the settings, call the stage's one function.

Stages are imported where they are called, so that `rl4vlm --help` is instant and a stage without a model loads no
torch.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl4vlm.cli.options import WORKFLOW_CONFIG, config_of
from rl4vlm.cli.played import played_settings, played_style, policy_label
from rl4vlm.config.fields import SET_NAME
from rl4vlm.config.load import load_config, merge
from rl4vlm.config.overrides import parse_settings, parse_words
from rl4vlm.core.games import name_on
from rl4vlm.core.types import Style
from rl4vlm.results.game_label import games_played

if TYPE_CHECKING:
    from rl4vlm.training.store import StateFolder


def list_tasks(args: argparse.Namespace) -> None:
    from rl4vlm.results.published import reference_rates
    from rl4vlm.tasks.registry import get_task_entry, task_names

    rates = {(rate.method, rate.task): f"{rate.success_rate:g} %" for rate in reference_rates()}
    row = "{:12} {:26} {:>8} {:>8}".format
    print(row("task", "gym id", "random", "optimal"))
    for name in task_names():
        try:
            gym_id = get_task_entry(name).gym_id
        except ValueError as error:
            print(row(name, "-", "-", "-"), error)
            continue
        shown = (rates.get((method, name), "-") for method in ("random", "solver"))
        print(row(name, gym_id, *shown))


def play(args: argparse.Namespace) -> None:
    import secrets

    from rl4vlm.config.stages.evaluation import PlaySettings
    from rl4vlm.play.session import play
    from rl4vlm.play.terminal import find_screen

    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    print(f"{args.task}, played by {args.policy}, seed {seed}")
    play(
        task=args.task,
        policy=args.policy,
        style=played_style(args),
        seed=seed,
        settings=parse_settings(PlaySettings, played_settings(PlaySettings, args)),
        gif=args.gif,
        screen=find_screen(),
    )


def base_model(args: argparse.Namespace) -> None:
    if args.state is not None and (args.copy or args.download):
        raise ValueError("--state is for pre-training: a copy or download has no state")
    if args.set and (args.copy or args.download):
        raise ValueError("--set is for pre-training: a copy or download has no settings")
    if args.revision and not args.download:
        raise ValueError("--revision is of a model on the Hugging Face hub: name the model with --download")
    if args.download:
        from rl4vlm.base_model.download import run as download

        download(name=args.download, revision=args.revision, out=args.out)
        return

    from rl4vlm.base_model.pretrain import copy_shipped, run
    from rl4vlm.config.stages.pretrain import PretrainSettings

    if args.copy:
        copy_shipped(source=args.copy, out=args.out)
    else:
        settings = parse_settings(PretrainSettings, args.set)
        states = _state_folder(args, "rl4vlm.base_model.pretrain", *settings.pretrain_tasks)
        run(out=args.out, settings=settings, resume_dir=states)


def alfworld_games(args: argparse.Namespace) -> None:
    from rl4vlm.config.stages.alfworld import GamesSettings
    from rl4vlm.envs.alfworld.generator import run

    manifest = run(out=args.out, settings=parse_settings(GamesSettings, args.set), processes=args.processes)
    for split, types in manifest["games"].items():
        print(f"{split}: {sum(types.values())} games ({', '.join(f'{count} {name}' for name, count in types.items())})")


def sft_data(args: argparse.Namespace) -> None:
    from rl4vlm.config.stages.sft_data import SFTDataSettings
    from rl4vlm.sft.data import run

    run(
        task=args.task,
        style=Style(args.style),
        out=args.out,
        settings=parse_settings(SFTDataSettings, args.set),
        resume_dir=_state_folder(args, "rl4vlm.sft.data", args.task),
    )


def sft(args: argparse.Namespace) -> None:
    from rl4vlm.config.stages.sft import SFTSettings
    from rl4vlm.sft.train import run

    run(
        data=args.data,
        init=args.init,
        out=args.out,
        settings=parse_settings(SFTSettings, args.set),
        resume_dir=_state_folder(args, "rl4vlm.sft.train"),
    )


def ppo(args: argparse.Namespace) -> None:
    from rl4vlm.config.stages.ppo import PPOSettings
    from rl4vlm.ppo.train import run

    run(
        task=args.task,
        style=Style(args.style),
        init=args.init,
        out=args.out,
        seed=args.seed,
        settings=parse_settings(PPOSettings, args.set),
        resume_dir=_state_folder(args, "rl4vlm.ppo.train", args.task),
    )


def cnn(args: argparse.Namespace) -> None:
    from rl4vlm.config.stages.cnn import CNNSettings
    from rl4vlm.ppo.cnn import run

    run(
        task=args.task,
        out=args.out,
        seed=args.seed,
        settings=parse_settings(CNNSettings, args.set),
        resume_dir=_state_folder(args, "rl4vlm.ppo.cnn", args.task),
    )


def _state_folder(args: argparse.Namespace, module: str, *choices: str) -> StateFolder | None:
    """The folder for a run's state (`--state`), with the digests of the code that it runs (`module_digests`)."""
    if args.state is None:
        return None
    from rl4vlm.config.code_digest import module_digests
    from rl4vlm.training.store import StateFolder

    return StateFolder(args.state, lambda: module_digests(module, choices))


def memory(args: argparse.Namespace) -> None:
    from rl4vlm.config.stages.memory import MemorySettings
    from rl4vlm.models.memory import estimate, report, table

    measured = {name: getattr(args, f"{name}_per_second") for name in ("played", "scored", "trained", "sft")}
    if args.config:
        if args.set:
            raise ValueError("--set is for one model: with --config, the settings are those of the config")
        from rl4vlm.training.plan import Rates, plan

        rates = Rates(**measured)
        print(plan(_workflow_config(args.config), args.model, rates))
        return
    for name, rate in measured.items():
        if rate is not None:
            raise ValueError(f"--{name}-per-second is for the hours of a config's jobs: name the config with --config")
    settings = parse_settings(MemorySettings, args.set)
    print(report(estimate(args.model, settings)) if args.model else table(settings))


def evaluate(args: argparse.Namespace) -> None:
    from rl4vlm.config.stages.evaluation import EvaluationSettings
    from rl4vlm.evaluation.run import run_sets
    from rl4vlm.policies.registry import kind_of

    style = f"-{args.style}" if args.style else ""
    out = args.out or Path("evaluation", f"{policy_label(args.policy)}-{args.task}{style}")
    words = played_settings(EvaluationSettings, args)
    sets = {out: parse_settings(EvaluationSettings, words)}
    for games, *changed in args.also:
        if not re.fullmatch(SET_NAME, games):
            raise ValueError(f"--also {games!r}: a set of games is named by letters, digits and underscores")
        folder = out.with_name(name_on(out.name, games))
        if folder in sets:
            raise ValueError(f"--also {games} is given twice")
        sets[folder] = parse_settings(EvaluationSettings, [*words, *changed])
    states = _state_folder(args, "rl4vlm.evaluation.run", args.task, kind_of(args.policy))
    found = run_sets(policy=args.policy, task=args.task, style=played_style(args), sets=sets, resume_dir=states)
    for (folder, settings), summary in zip(sets.items(), found, strict=True):
        games = games_played(summary.get("data_sources", ()), settings.games)
        where = f"{args.task} ({games})" if games else args.task
        print(
            f"{summary['method']} on {where}: {summary['success_rate']:.1f} % of {summary['episodes']} episodes won "
            f"(95 % interval {summary['ci_low']:.1f} to {summary['ci_high']:.1f}); written to {folder}"
        )
        if summary["partial"]:
            # With `each_game_once`, there may be fewer games than episodes asked for.
            planned = f"{'at most ' if settings.each_game_once else ''}{settings.episodes}"
            print(f"This is a partial result, of {planned} episodes: {summary['stopped']}.")


def tables(args: argparse.Namespace) -> None:
    from rl4vlm.results.tables import build_tables

    build_tables(out=args.out, **_read_results(args))


def figure(args: argparse.Namespace) -> None:
    from rl4vlm.figures.draw import draw
    from rl4vlm.figures.style import FigureStyle

    style = parse_settings(FigureStyle, args.set)
    draw(args.figure, out=args.out / args.figure, style=style, **_read_results(args))


def gallery(args: argparse.Namespace) -> None:
    from rl4vlm.config.stages.gallery import GallerySettings
    from rl4vlm.gallery.build import build_gallery

    settings = parse_settings(GallerySettings, args.set)
    folders = _folders(args.results / "eval", args.evaluations)
    file = build_gallery(evaluations=folders, scale=args.scale, out=args.out, settings=settings)
    print(f"{file} ({file.stat().st_size / 1e6:.1f} MB): open it in any browser")


def readme_assets(args: argparse.Namespace) -> None:
    from rl4vlm.figures.assets import readme_assets

    readme_assets(figures=args.figures, tables=args.tables, out=args.out, command=args.command, readme=args.readme)


def check_results(args: argparse.Namespace) -> None:
    from rl4vlm.results.claims import broken_claims, load_claims
    from rl4vlm.results.expected import expected_files, problems

    config = _workflow_config(args.config)
    files = expected_files(config)
    file = args.claims or Path("claims.yaml")
    claims = load_claims(file, config["results_dir"]) if args.claims or file.is_file() else []
    if args.claims and not claims:
        raise ValueError(f"{file} has no claims about {config['results_dir']}")
    broken = problems(files)
    found = [*broken, *broken_claims(claims, Path(config["results_dir"]))]
    for problem in found:
        print(problem)
    if found:
        raise ValueError(
            f"{len(broken)} of {len(files)} expected files are missing or broken, {len(found) - len(broken)} of "
            f"{len(claims)} claims do not hold"
        )
    print(f"all {len(files)} expected files are there, and all {len(claims)} claims hold")


def export(args: argparse.Namespace) -> None:
    from rl4vlm.export.run import run

    run(checkpoint=args.checkpoint, out=args.out, dtype=args.dtype, evaluations=args.evaluations, push=args.push)
    print(f"{args.out}: weights in {args.dtype}, with a model card")


def archive(args: argparse.Namespace) -> None:
    from rl4vlm.archive.pack import pack

    config = merge(config_of(args.config), parse_words(args.set))
    done = pack(results=args.results, out=args.out, code=args.code, config=config)
    print(f"{args.out} ({args.out.stat().st_size / 1e6:.1f} MB): {done.files} files, code at {done.revision}")
    if done.changed:
        print("The code differs from that revision: it is packed as it is now, marked as changed, with a patch.")


def verify_archive(args: argparse.Namespace) -> None:
    from rl4vlm.archive.verify import verify

    verdict = verify(args.archive)
    for problem in verdict.problems:
        print(problem)
    if verdict.problems:
        raise ValueError(f"{len(verdict.problems)} problems with {verdict.compared} files, {verdict.rebuilt} rebuilt")
    print(
        f"all {verdict.compared} files are as packed; {verdict.rebuilt} files of tables and figures, rebuilt from the "
        "packed results, are the same byte for byte"
    )


def settings_docs(args: argparse.Namespace) -> None:
    from rl4vlm.cli.reference import write_settings_page

    write_settings_page(args.out)


def _workflow_config(files: Sequence[Path]) -> dict[str, Any]:
    """The workflow's config with `files` over it, checked. The extras that it asks for need not be installed here."""
    from rl4vlm.config.check import checked_config
    from rl4vlm.interaction.options import options_of
    from rl4vlm.tasks.registry import task_names

    config = load_config([WORKFLOW_CONFIG, *files])
    return checked_config(config, task_names(), options_of, installed=lambda package: True)


def _read_results(args: argparse.Namespace) -> dict[str, Any]:
    """The results that tables and figures are made of, as arguments of `build_tables` and `draw`."""
    cnn = args.results / "cnn"
    without_cnn = args.cnn_runs is None and not cnn.is_dir()
    return {
        "evaluations": _folders(args.results / "eval", args.evaluations),
        "training_runs": [
            *_folders(args.results / "ppo", args.ppo_runs),
            *([] if without_cnn else _folders(cnn, args.cnn_runs)),
        ],
        "base_perceptions": dict(args.base_perceptions),
        "scale": args.scale,
        "thought_prob_coef": dict(args.thought_prob_coef),
    }


def _folders(parent: Path, names: list[str] | None) -> list[Path]:
    """The folders of these names, or all below `parent`."""
    if names is not None:
        return [parent / name for name in names]
    if not parent.is_dir():
        raise ValueError(f"no results at {parent}: there is no such folder")
    return sorted(folder for folder in parent.iterdir() if folder.is_dir())

"""The options that several subcommands share, one function each."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rl4vlm.cli.reference import settings_help
from rl4vlm.config.fields import LABEL, LARGEST_SEED
from rl4vlm.config.load import load_config
from rl4vlm.core.types import Style

WORKFLOW_CONFIG = Path("config/config.yaml")
"""The config of the workflow, below the folder that it is run in."""


class StageParser(argparse.ArgumentParser):
    """The parser of a subcommand; its help ends with the settings of the stage."""

    settings: type[Any] | None = None

    def format_help(self) -> str:
        return super().format_help() + (settings_help(self.settings) if self.settings else "")


def config_files(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--config",
        nargs="*",
        type=Path,
        metavar="FILE",
        help=f"files that {what}, each laid over those before it, the first over {WORKFLOW_CONFIG} if there is one "
        "(default: that file alone; if `--config` is given without FILE, no file is read)",
    )


def config_of(files: Sequence[Path] | None) -> dict[str, Any]:
    """The config that `--config FILES` means; None is the workflow's own. Raises ValueError naming a wrong file."""
    if files is None:
        return load_config([WORKFLOW_CONFIG])
    # A file can say all that is needed of a model over HTTP, outside the project's folder.
    main = [WORKFLOW_CONFIG] if files and WORKFLOW_CONFIG.is_file() else []
    return load_config([*main, *files])


def results_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of results to read (default: results)",
    )


def evaluations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--evaluations", nargs="*", metavar="RUN", help="evaluations to use (default: all in DIR/eval)")


def scale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", type=_label, default="embedded", help="label of these results (default: embedded)")


def _label(text: str) -> str:
    if not text or not re.fullmatch(LABEL, text):
        raise argparse.ArgumentTypeError("it may not be empty or hold a comma, a bar or a line break")
    return text


def results(parser: argparse.ArgumentParser) -> None:
    results_folder(parser)
    evaluations(parser)
    scale(parser)
    parser.add_argument("--ppo-runs", nargs="*", metavar="RUN", help="PPO runs to use (default: all in DIR/ppo)")
    parser.add_argument("--cnn-runs", nargs="*", metavar="RUN", help="CNN+RL runs to use (default: all in DIR/cnn)")
    parser.add_argument(
        "--base-perceptions",
        nargs="*",
        type=_task_file,
        default=[],
        metavar="TASK=FILE",
        help="perception.json of the base model that a task started from; without it, no row shows that base model",
    )
    parser.add_argument(
        "--thought-prob-coef",
        nargs="*",
        type=_task_lambda,
        default=[],
        metavar="TASK=LAMBDA",
        help="lambda of the method itself; needed for a task that was trained with several",
    )


def _task_file(text: str) -> tuple[str, Path]:
    task, _, file = text.partition("=")
    if not task or not file:
        raise argparse.ArgumentTypeError(f"{text!r} does not have the form TASK=FILE")
    return task, Path(file)


def _task_lambda(text: str) -> tuple[str, float]:
    task, _, value = text.partition("=")
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not task or not math.isfinite(weight):
        raise argparse.ArgumentTypeError(f"{text!r} does not have the form TASK=NUMBER, such as NumberLine=0.5")
    return task, weight


def out(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help=what)


def folder(text: str) -> Path:
    """The type of an option that names a folder to write."""
    if not text:  # as by a shell variable that is not set
        raise argparse.ArgumentTypeError("it is empty; name a folder")
    path = named_folder(text)
    if not path.name:
        raise argparse.ArgumentTypeError(f"{text!r} is the root of the file system; name a folder in it")
    return path


def named_folder(text: str) -> Path:
    """The path of a folder, whose last part is its name: `.` and `..` become absolute paths."""
    path = Path(text)
    return path.resolve() if path.name in ("", "..") else path


def init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--init", required=True, metavar="MODEL", help="checkpoint folder or Hugging Face name to start from"
    )


def state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        type=folder,
        metavar="DIR",
        help="folder for the run's state: if the run is killed, the same command continues it from there; the folder "
        "is removed at the end (default: no state is saved)",
    )


def style(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--style",
        choices=[style.value for style in Style],
        default=Style.COT,
        help="replies with thoughts (cot) or the action alone (nocot); default: cot",
    )


def played_style(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--style",
        choices=[style.value for style in Style],
        help="replies with thoughts (cot) or the action alone (nocot); default: what the policy was trained with, or "
        "what the config's entry of an API model says, else cot",
    )


def task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, metavar="TASK", help="as listed by `rl4vlm tasks`")


def seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=whole(0, LARGEST_SEED), default=1, help="seed of everything that is random (default: 1)"
    )


def whole(smallest: int, largest: int | None = None) -> Callable[[str], int]:
    """The type of a whole number that is not below `smallest`, and not above `largest` if there is one."""

    def number(text: str) -> int:
        if (value := int(text)) < smallest:
            raise argparse.ArgumentTypeError(f"{value} is below {smallest}")
        if largest is not None and value > largest:
            raise argparse.ArgumentTypeError(f"{value} is above {largest}")
        return value

    return number


def rate(text: str) -> float:
    """The type of a rate: a finite number above 0."""
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no finite number above 0")
    return value


def settings(parser: StageParser, kind: type[Any]) -> None:
    """`--set` for a settings class, whose settings the help lists at its end."""
    parser.settings = kind
    words(parser, "settings that differ from their defaults, as listed below; KEY.PART=VALUE sets a part of one")


def words(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help=what)

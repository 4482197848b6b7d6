"""Reads what runs left: evaluations, learning curves, what the base model reads, and recorded episodes.

Only the folders that are asked for are read, so a folder of an earlier config never shows up in a result. A missing or
broken file is a ValueError that names the file and, if it has lines, the line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from rl4vlm.core.files import RECORD, checked, read_json, read_json_lines
from rl4vlm.core.games import GAMES_MARK
from rl4vlm.core.output import check_unchanged
from rl4vlm.core.types import Style
from rl4vlm.results.game_label import games_played
from rl4vlm.results.intervals import Counts
from rl4vlm.results.origin import origin_of_run
from rl4vlm.results.provenance import EPISODES, HELD_OUT, METRICS, SUMMARY, read_record


class Tally(BaseModel):
    """How many episodes were won and played."""

    successes: int = Field(ge=0)
    episodes: int = Field(ge=0)

    @property
    def counts(self) -> Counts:
        return self.successes, self.episodes


class Readings(BaseModel):
    """How often a field of the image was read right, read wrong, and not stated."""

    right: int = Field(ge=0)
    wrong: int = Field(ge=0)
    not_stated: int = Field(ge=0)

    def __add__(self, other: Readings) -> Readings:
        return Readings(
            right=self.right + other.right,
            wrong=self.wrong + other.wrong,
            not_stated=self.not_stated + other.not_stated,
        )


class Evaluation(Tally):
    """Totals of one held-out evaluation: its `summary.json`, and the perception counts of its `episodes.jsonl`.

    Attributes:
        folder: where it lies.
        method: name of the method in tables, without λ.
        kind: scripted, sft, ppo, cnn, http, api or checkpoint.
        thought_prob_coef: λ of the PPO run that made the policy; None for other policies.
        seed: training seed; None for a policy that was not trained here.
        variant: the variant of `variants` in the config; empty for the method itself.
        success_rate: in percent.
        mean_return: undiscounted, per episode.
        logprob_thoughts: mean over steps of Σ log p of the thoughts' tokens, in nats; None without them.
        logprob_action: the same of the action's tokens.
        partial: fewer episodes were played than asked for.
        groups: counts by kind of episodes, for a task that is counted by kinds.
        overall: name of the rate over all kinds in tables.
        data_sources: where the games came from, if they are data.
        games: which set of games was played (`unseen`), if the task has several.
        rules: the environment's options but for the folder of games, and the texts of the prompt; empty without a
            `run.json`.
        perception: by field of the image, how it was read.
        won: by seed of the episode, whether it was won.
        won_by_group: the same for each of `groups`.
    """

    model_config = ConfigDict(frozen=True, validate_by_name=True)

    folder: Path
    method: str
    kind: str
    task: str
    thought_prob_coef: float | None = Field(alias="lambda")
    seed: int | None = None
    variant: str = ""
    success_rate: float = Field(ge=0, le=100)
    mean_return: float
    logprob_thoughts: float | None = None
    logprob_action: float | None = None
    partial: bool = False
    groups: dict[str, Tally] = {}
    overall: str | None = None
    data_sources: tuple[str, ...] = ()
    games: str | None = None
    rules: dict[str, Any] = {}
    perception: dict[str, Readings] = {}
    won: dict[int, bool] = {}
    won_by_group: dict[str, dict[int, bool]] = {}

    @property
    def games_label(self) -> str | None:
        """Which games were played, in words (`generated games, unseen`); None for games that are rules."""
        return games_played(self.data_sources, self.games)

    @property
    def on_main_games(self) -> bool:
        """Whether it was played on the first of its task's sets of games."""
        return GAMES_MARK not in self.folder.name


class CurvePoint(NamedTuple):
    """One update of a training run: success in percent over `window` episodes, training or validation."""

    env_steps: int
    success_rate: float
    window: int

    @property
    def counts(self) -> Counts:
        return round(self.success_rate / 100 * self.window), self.window


@dataclass(frozen=True)
class TrainingRun:
    """The learning curve of a PPO or CNN+RL run, over training episodes (`curve`) and on validation episodes.

    Updates without a rate are left out.
    """

    folder: Path
    method: str
    task: str
    thought_prob_coef: float | None
    seed: int
    curve: tuple[CurvePoint, ...]
    validation: tuple[CurvePoint, ...] = ()
    variant: str = ""

    @property
    def peak(self) -> CurvePoint | None:
        """The paper's statistic: the highest rolling success rate.

        Only full windows count, because a window of few episodes would win by luck. A run that is too short to fill its
        window is judged by its fullest one.
        """
        full = max((point.window for point in self.curve), default=0)
        return max(
            (point for point in self.curve if point.window == full), key=lambda point: point.success_rate, default=None
        )


Run = TypeVar("Run", Evaluation, TrainingRun)


class BasePerception(BaseModel):
    """Share of right answers of a base model before SFT, by task and field, over `samples` images per task."""

    samples: int
    tasks: dict[str, dict[str, float]]


def load_evaluation(folder: Path) -> Evaluation:
    """Read `summary.json` and `episodes.jsonl`.

    Raises:
        ValueError: one is missing or broken, is not the file that was written, or they disagree.
    """
    file = folder / SUMMARY
    try:
        won, by_group, perception = _read_episodes(folder / EPISODES)
        summary = read_json(file)
    except ValueError as error:
        raise ValueError(f"{error}; delete {folder} and run this evaluation again") from error.__cause__
    if summary.get("protocol", HELD_OUT) != HELD_OUT:
        raise ValueError(f"{file}: {summary['protocol']}, so it is no held-out evaluation and belongs in no table")
    counted = {"perception": perception, "won": won, "won_by_group": by_group}
    found = checked(Evaluation, {**summary, **counted, "folder": folder, "rules": _rules(folder)}, str(file))
    if found.counts != (sum(won.values()), len(won)):
        raise ValueError(
            f"{file} counts {found.successes} successes in {found.episodes} episodes, {EPISODES} beside it "
            f"{sum(won.values())} in {len(won)}"
        )
    for name, group in found.groups.items():
        played = by_group.get(name, {})
        if group.counts != (sum(played.values()), len(played)):
            raise ValueError(
                f"{file} counts {group.successes} successes in {group.episodes} episodes of {name}, {EPISODES} "
                f"beside it {sum(played.values())} in {len(played)}"
            )
    # Checked last: an error about the content of a file says more than that the file has changed.
    for name in (EPISODES, SUMMARY):
        check_unchanged(folder / name)
    return found


def _rules(folder: Path) -> dict[str, Any]:
    """What an evaluation played by: the environment's options but for the folder of games, and texts of the prompt."""
    if not (folder / RECORD).is_file():
        return {}
    settings = read_record(folder / RECORD)["settings"]
    env = {name: value for name, value in (settings.get("env") or {}).items() if name != "data"}
    return {"env": env, "prompt": settings.get("prompt") or {}}


def load_training_run(folder: Path) -> TrainingRun:
    """Read `run.json` and `metrics.jsonl` of a PPO or CNN+RL run.

    Raises:
        ValueError: a file is missing or broken, is of another stage, or was written by an older version.
    """
    file = folder / RECORD
    record = read_record(file)
    origin = origin_of_run(record, None, file)
    if origin is None or origin.kind == "sft" or origin.seed is None:
        raise ValueError(f"{file} is of stage {record['stage']!r}, not of a PPO or CNN+RL run")
    curve = tuple(_curve(folder / METRICS, "success_rate", "window"))
    validation = tuple(_curve(folder / METRICS, "validation_success_rate", "validation_episodes"))
    check_unchanged(folder / METRICS)
    return TrainingRun(
        folder=folder,
        method=origin.method,
        task=str(_with_entries(record["settings"], ("task",), file)["task"]),
        thought_prob_coef=origin.thought_prob_coef,
        seed=origin.seed,
        variant=origin.variant,
        curve=curve,
        validation=validation,
    )


def load_base_perception(file: Path) -> BasePerception:
    """Read the `perception.json` of a base model. Raises ValueError if it is missing or broken."""
    check_unchanged(file)
    return checked(BasePerception, read_json(file), str(file))


@dataclass(frozen=True)
class Recording:
    """All that is needed to replay an evaluation: what was played and how (`run.json`), and every episode.

    Attributes:
        file: its `episodes.jsonl`.
        env: keyword arguments of the environment.
        prompt: texts that replaced the task's own.
        summary: content of its `summary.json`.
        episodes: the lines of `file`.
    """

    file: Path
    task: str
    style: Style
    env: Mapping[str, Any]
    prompt: Mapping[str, str]
    summary: Mapping[str, Any]
    episodes: tuple[Mapping[str, Any], ...]

    @property
    def name(self) -> str:
        return self.file.parent.name


EPISODE_ENTRIES = ("episode", "seed", "success", "return", "length", "fallbacks", "steps")
STEP_ENTRIES = ("action", "reward", "outcome", "fallback", "reply")


def load_recording(folder: Path) -> Recording:
    """Read the folder of an evaluation. Raises ValueError naming a file that is missing, broken or incomplete."""
    settings = checked(_PlayedSettings, read_record(folder / RECORD)["settings"], f"{folder / RECORD}, settings")
    found = Recording(
        file=folder / EPISODES,
        task=settings.task,
        style=settings.style,
        env=settings.env or {},
        prompt=settings.prompt or {},
        summary=load_summary(folder, ("method",)),
        episodes=tuple(_episodes(folder / EPISODES)),
    )
    check_unchanged(folder / EPISODES)
    return found


def load_summary(folder: Path, entries: Iterable[str]) -> Mapping[str, Any]:
    """Read `summary.json`. Raises ValueError if it is missing, broken, not what was written or lacks an entry."""
    found = _with_entries(read_json(folder / SUMMARY), entries, folder / SUMMARY)
    check_unchanged(folder / SUMMARY)
    return found


class _PlayedSettings(BaseModel):
    task: str
    style: Style
    env: dict[str, Any] | None = None
    prompt: dict[str, str] | None = None


def _episodes(file: Path) -> Iterator[Mapping[str, Any]]:
    for place, episode in read_json_lines(file):
        steps = _with_entries(episode, EPISODE_ENTRIES, place)["steps"]
        if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
            raise ValueError(f"{place}: 'steps' is no list of objects")
        for step in steps:
            _with_entries(step, STEP_ENTRIES, place)
        yield episode


def _with_entries(found: Mapping[str, Any], names: Iterable[str], place: Path | str) -> Mapping[str, Any]:
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{place} has no {missing[0]!r}")
    return found


class _MetricsLine(BaseModel):
    env_steps: int
    success_rate: float | None
    """In 0..1; None before the first episodes count."""
    window: int
    validation_success_rate: float | None = None
    validation_episodes: int = 0


class _EpisodeLine(BaseModel):
    seed: int
    success: bool
    group: str | None = None
    perception: dict[str, Readings]


def _curve(file: Path, rate: str, episodes: str) -> Iterator[CurvePoint]:
    for place, line in read_json_lines(file):
        found = checked(_MetricsLine, line, place)
        if (share := getattr(found, rate)) is not None:
            yield CurvePoint(found.env_steps, 100 * share, getattr(found, episodes))


def _read_episodes(file: Path) -> tuple[dict[int, bool], dict[str, dict[int, bool]], dict[str, Readings]]:
    """Whether each episode was won, by its seed, the same by group, and how each field of the image was read."""
    won: dict[int, bool] = {}
    by_group: dict[str, dict[int, bool]] = {}
    perception: dict[str, Readings] = {}
    for place, line in read_json_lines(file):
        found = checked(_EpisodeLine, line, place)
        won[found.seed] = found.success
        if found.group is not None:
            by_group.setdefault(found.group, {})[found.seed] = found.success
        for name, readings in found.perception.items():
            perception[name] = perception[name] + readings if name in perception else readings
    return won, by_group, perception

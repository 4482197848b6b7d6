"""The whole config: which keys there are, what each may hold, and that every name in it is known.

A dry run checks all of it. The settings of each stage are described in the module of the stage, beside this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from rl4vlm.config.fields import LABEL, SET_NAME, Count, FilePath, Natural, Seed, Share, Weight, settings
from rl4vlm.config.settings import build_settings, check_some
from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.config.stages.api import ApiSettings
from rl4vlm.config.stages.cnn import CNNSettings
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.config.stages.figures import FigureSettings
from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.config.stages.pretrain import PretrainSettings
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.games import NOT_IN_TASK_NAMES
from rl4vlm.core.types import Style

Values = TypeVar("Values", bound=Iterable[Any])

STAGES: dict[str, type[Any]] = {
    "sft_data": SFTDataSettings,
    "sft": SFTSettings,
    "ppo": PPOSettings,
    "cnn": CNNSettings,
    "evaluation": EvaluationSettings,
}
"""The stages with settings per task, which `task_options` adds to."""
_ELSEWHERE = {
    "env": "task_options", "prompt": "task_options", "games": "evaluation.sets", "variant": "variants"
}  # fmt: skip
ELSEWHERE = {stage: _ELSEWHERE | ({"seed": "seeds"} if stage == "sft" else {}) for stage in STAGES}
"""By stage, its settings that other sections of the config decide."""


def _task_name(name: str) -> str:
    if found := re.search(f"[{NOT_IN_TASK_NAMES}]", name):
        raise ValueError(f"the name of a task must not contain {found[0]!r}")
    return name


def _unique(values: Values) -> Values:
    seen = list(values)
    if len(set(seen)) < len(seen):
        raise ValueError("an entry stands there twice")
    return values


def _all_of(kind: type[Any]) -> AfterValidator:
    """The settings of a class that differ from its defaults."""

    def check(values: dict[str, Any]) -> dict[str, Any]:
        typed = check_some(kind, values)
        build_settings(kind, values)
        return typed

    return AfterValidator(check)


def _some_of(stage: str) -> AfterValidator:
    """Single settings of a stage, which other settings of the config complete."""
    return AfterValidator(lambda values: check_some(STAGES[stage], values, ELSEWHERE[stage]))


@settings
class BaseModelSource:
    """Where a base model comes from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")] = "base"
    """Name of its folder in the results and among the shipped weights. Tasks with the same name share one model."""
    source: FilePath = "pretrain"
    """`shipped` (the weights in the repository), `pretrain` (train it here), a folder, or a Hugging Face name."""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_./-]*$")] | None = None
    """Branch, tag or commit of a Hugging Face model; null is the newest."""
    settings: PretrainSettings = field(default_factory=PretrainSettings)
    """Settings of `rl4vlm base-model`, for the sources `pretrain` and `shipped`."""


@settings
class TaskOptions:
    """What a task is like. Demonstrations, training and evaluation all use these options."""

    env: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, such as `rules` and `card_art`. `{results_dir}` in a text is replaced by
    its value."""
    prompt: dict[str, str] = field(default_factory=dict)
    """Texts that replace parts of the task's prompt: `role`, `observation`, `rules`, or the hint for a key."""


_Lambdas = Annotated[tuple[Share, ...], AfterValidator(_unique)]
_SetName = Annotated[str, Field(pattern=SET_NAME)]


@settings
class Section:
    """A section of the config with settings per task; `SECTIONS` says of which class."""

    defaults: dict[str, Any] = field(default_factory=dict)
    """For all tasks."""
    per_task: dict[str, dict[str, Any] | None] | None = None
    """What differs for single tasks."""


@settings
class SFTDataSection(Section):
    """Demonstrations."""

    given: dict[str, FilePath] = field(default_factory=dict)
    """Existing demonstrations to use instead of the solver's: a folder or file in LLaVA's JSON format for each
    TASK-STYLE. Transparent images are put on white."""


@settings
class CNNSection(Section):
    """The CNN+RL baseline."""

    skip: Annotated[tuple[str, ...], AfterValidator(_unique)] = ()
    """Tasks to leave out."""


@settings
class EvaluationSection(Section):
    """Held-out evaluation."""

    sets: dict[str, dict[_SetName, dict[str, Any]]] = field(default_factory=dict)
    """For a task whose games are data files: its sets of games, each with keyword arguments of the environment. The
    first set is the main one."""


SECTIONS: dict[str, type[Any]] = {"base_model": BaseModelSource, "task_options": TaskOptions, **STAGES}
"""The sections with `defaults` and `per_task`, and the class of their settings."""


@settings
class AlfworldSection:
    """The games of ALFWorld."""

    generate: Annotated[dict[str, Any], _all_of(GamesSettings)] = field(default_factory=dict)
    """Settings of `rl4vlm alfworld-games`."""


@settings
class PlayedOverHttp:
    """What an evaluation over HTTP may set; null leaves it to the section `evaluation`."""

    episodes: Count | None = None
    """Number of episodes."""
    num_envs: Count | None = None
    """Number of episodes played at the same time."""
    temperature: Weight | None = None
    """Sampling temperature; 0 is greedy."""
    max_new_tokens: Count | None = None
    """Longest reply, in tokens."""


@settings
class OverHttpSection(PlayedOverHttp):
    """Trained checkpoints that are also evaluated over HTTP, served by `transformers serve`."""

    tasks: Annotated[tuple[str, ...], AfterValidator(_unique)] = ()
    """Tasks of which the first main PPO run is evaluated."""
    # Greedy, so that the replies do not depend on the order in which requests arrive.
    temperature: Weight | None = 0.0
    concurrency: Count = 2
    """Largest number of requests at the same time."""


@settings
class ApiModel(PlayedOverHttp, ApiSettings):
    """A model behind an endpoint, and how it is evaluated."""

    tasks: Annotated[tuple[str, ...], AfterValidator(_unique)] | None = None
    """Tasks to evaluate it on; null is all."""
    style: Style = Style.COT
    """How it writes its replies: `cot` or `nocot`."""


@settings
class Resources:
    """Resources that a job requests."""

    threads: Count
    """CPU threads."""
    mem_mb: Count
    """Memory in MB."""
    runtime: Count
    """Minutes after which a cluster may end the job."""
    gpu: Natural = 0
    """Number of GPUs. With 0, a job with a model sees none."""
    processes: Count = 1
    """Processes of a training (sft, ppo); each takes one GPU."""
    nodes: Count = 1
    """Nodes of a SLURM cluster. They share the processes and GPUs evenly; threads and memory are per node."""


@settings
class Variant:
    """The method with some settings changed for all tasks. If `sft` is empty, it shares the method's warm start."""

    sft: Annotated[dict[str, Any], _some_of("sft")] = field(default_factory=dict)
    """Settings of the warm start."""
    ppo: Annotated[dict[str, Any], _some_of("ppo")] = field(default_factory=dict)
    """Settings of PPO."""


@settings
class ResourcesSection:
    """Resources that the jobs of each stage request."""

    base_model: Resources
    """Making the base model."""
    alfworld_games: Resources
    """Generating ALFWorld games; the planner uses as many processes as there are threads."""
    sft_data: Resources
    """Demonstrations, copies and downloads."""
    sft: Resources
    """The supervised warm start."""
    ppo: Resources
    """PPO."""
    cnn: Resources
    """CNN+RL, its training and its evaluation."""
    evaluation: Resources
    """Evaluation of language models and scripted policies."""
    api: Resources
    """Evaluation of models behind an endpoint."""
    figures: Resources
    """Tables, figures and archive."""
    gallery: Resources
    """The gallery. It replays its episodes, in AI2-THOR too."""


@settings
class FiguresSection:
    """Figures."""

    style: Annotated[dict[str, Any], _all_of(FigureSettings)] = field(default_factory=dict)
    """How figures look."""


@settings
class Config:
    """A config of the workflow."""

    scale: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    """The file in `config/scales/` that this config overrides: `embedded` or `paper`."""
    label: Annotated[str, Field(pattern=LABEL)] = ""
    """Name of these results in tables and figures; if empty, the scale's name."""
    results_dir: FilePath
    """Folder of all results."""
    assets_dir: FilePath
    """Folder that README's images and table are copied to."""
    tasks: Annotated[
        tuple[Annotated[str, Field(min_length=1), AfterValidator(_task_name)], ...],
        Field(min_length=1),
        AfterValidator(_unique),
    ]
    """Tasks that are trained and evaluated; `rl4vlm tasks` lists all known tasks."""
    styles: Annotated[tuple[Style, ...], Field(min_length=1), AfterValidator(_unique)]
    """Reply styles: `cot` (thoughts, then the action) and `nocot` (the action alone)."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_unique)]
    """Training seeds. Each seed trains everything again: SFT, PPO from that warm start, CNN+RL. Demonstrations are the
    same for all seeds."""
    container: str = "rl4vlm.sif"
    """Image for `--sdm apptainer`: a .sif file or a docker:// address."""
    accelerate: FilePath = "config/accelerate/ddp.yaml"
    """The config file of `accelerate launch`, for training with several processes."""
    base_model: Section
    """The base models that tasks start from."""
    task_options: Section = field(default_factory=Section)
    """What each task is like, for all stages."""
    alfworld: AlfworldSection = field(default_factory=AlfworldSection)
    """Generated games of ALFWorld."""
    sft_data: SFTDataSection = field(default_factory=SFTDataSection)
    """Demonstrations."""
    sft: Section = field(default_factory=Section)
    """The supervised warm start."""
    ppo: Section = field(default_factory=Section)
    """PPO."""
    cnn: CNNSection | None = None
    """The CNN+RL baseline; null leaves it out."""
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    """Held-out evaluation."""
    over_http: OverHttpSection = field(default_factory=OverHttpSection)
    """Evaluation of trained checkpoints over HTTP."""
    api_models: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")], Annotated[dict[str, Any], _all_of(ApiModel)]
    ] = field(default_factory=dict)
    """Models behind OpenAI-compatible endpoints; the keys are names of your choice."""
    ablations: dict[Literal["lambda"], dict[str, _Lambdas] | None] | None = None
    """Additional PPO runs, with thoughts: `lambda` lists values of `thought_prob_coef` for each task (figure 7)."""
    variants: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")], Variant] = field(default_factory=dict)
    """Additional PPO runs, with thoughts. Each variant differs from the method in some settings (under `sft` and `ppo`)
    and is a row of the table `ablations`. A variant that changes nothing for a task is left out for that task."""
    resources: ResourcesSection
    """Resources that each stage's jobs request."""
    figures: FiguresSection = field(default_factory=FiguresSection)
    """How figures look."""
    gallery: Annotated[dict[str, Any], _all_of(GallerySettings)] = field(default_factory=dict)
    """The gallery of sample episodes."""

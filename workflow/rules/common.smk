# Names of folders, and the input and params functions that the other files use.

import hashlib
import json
import os
import re
import shlex
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path

from rl4vlm.archive.code import revision_and_tree
from rl4vlm.core.workflow import VARIABLE as ANNOUNCED, announcement
from rl4vlm.config.base_models import EMBEDDED, base_model, base_models
from rl4vlm.config.code_digest import code_digest
from rl4vlm.config.load import (
    CNN_EVALUATION,
    SCRIPTED_EVALUATION,
    api_settings,
    api_style,
    cnn_evaluation_settings,
    evaluation_sets,
    evaluation_settings,
    http_settings,
    stage_settings,
    thought_prob_coef,
)
from rl4vlm.config.launch import granted, stage_command
from rl4vlm.config.overrides import setting_words, stage_arguments
from rl4vlm.config.run_names import CNN_NAME, DATA_NAME, KEPT_NAME, PPO_NAME, SFT_NAME
from rl4vlm.config.runs import (
    PPORun,
    ablation_runs,
    cnn_runs,
    evaluation_runs,
    kept_policies,
    main_runs,
    ppo_runs,
    start_of,
)
from rl4vlm.config.schema import STAGES
from rl4vlm.config.scripted import SCRIPTED
from rl4vlm.core.env_folders import env_folders
from rl4vlm.core.files import files_below
from rl4vlm.core.games import GAMES_MARK, NOT_IN_TASK_NAMES, name_on
from rl4vlm.core.gpus import shown_gpus
from rl4vlm.core.types import Style
from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.config.stages.figures import FigureSettings
from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.config.stages.pretrain import PretrainSettings
from rl4vlm.config.stages.training import NO_EFFECT
from rl4vlm.results.expected import expected_tables
from rl4vlm.results.names import TABLES, asset_files, figure_files, figures_beside, page_in, table_files

RESULTS = config["results_dir"]
# Pre-trained weights of the embedded base models, one folder each; `make base-models` makes them again. They are in
# ../resources/base_model, also if another workflow loads this one as a module by its path. If it is loaded by its web
# address, there is no such folder, and the copy in the installed package is used.
BESIDE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
BROUGHT = Path(sysconfig.get_path("data"), "share", "rl4vlm", "base_model")
SHIPPED = os.path.relpath(BESIDE / "resources" / "base_model") if BESIDE.is_dir() else str(BROUGHT)
BASES = base_models(config, Path(SHIPPED))
# Perception is measured only for base models that this project made.
READERS = {
    task: model.folder(RESULTS) for task in config["tasks"] if (model := base_model(config, task)).kind in EMBEDDED
}
BASE_PERCEPTIONS = [f"{task}={folder}/perception.json" for task, folder in READERS.items()]
# Evaluations of the intermediate policies that PPO runs keep (`keep_checkpoints`). Tables and figures do not show them.
KEPT_EVALUATIONS = [
    f"{RESULTS}/{KEPT_NAME.format(run=run.name, kept=kept)}/summary.json" for run, kept in kept_policies(config)
]

# Jobs call the `rl4vlm` of the environment that runs Snakemake, even if that environment is not activated. If Snakemake
# ends, its jobs end too (rl4vlm.core.workflow).
os.environ.update(
    {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", "")]), ANNOUNCED: announcement()}
)
# A scheduler sends its signal to every process of a job. The shell ignores it: if the shell ended first, the job would
# be over before the stage has saved its state. The stage still gets the signal.
shell.prefix("set -euo pipefail; trap : TERM USR1; ")

# Run as many jobs with a GPU at a time as this machine has GPUs, or one if it has none, unless `--resources gpu=N` says
# otherwise. Each job takes a free GPU (`rl4vlm.core.gpus`).
if "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", max(1, len(shown_gpus())))

# Compute nodes may have no network. All files that a job reads there are local by then, so it need not ask the hub.
if workflow.remote_exec:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


wildcard_constraints:
    task=rf"[^{NOT_IN_TASK_NAMES}]+",
    # The set of games (`evaluation.sets` in the config); empty for the first set.
    games=rf"({GAMES_MARK}\w+)?",
    style="|".join(Style),
    # An entry of `variants` in the config; empty for the method itself.
    variant=r"(\+\w+)?",
    lam=r"\d+(\.\d+)?",
    seed=r"\d+",


def code_of(entry, *choices):
    """Params function: the digest of the code of a stage, so that a job reruns when that code changes.

    Args:
        entry: the module in which the stage starts.
        choices: the registry entries that it looks up; wildcards are filled in, as in `{task}`.
    """
    return lambda wildcards: code_digest(entry, [choice.format(**wildcards) for choice in choices])


class SettingWords(list):
    """The `key=value` words of a stage's settings, for a param.

    Snakemake compares params by their `repr`. This one leaves out the settings that have no effect on results, so a change
    of them reruns nothing.
    """

    def __repr__(self):
        return repr([word for word in self if word.partition("=")[0] not in NO_EFFECT])


def settings(stage, but=()):
    """Params function: all settings of a stage for the job's task and variant, as `key=value` words of a command line.

    Settings named in `but` are left out, because the job's wildcards decide them.
    """
    return lambda wildcards: SettingWords(
        stage_arguments(STAGES[stage], stage_settings(config, stage, wildcards.task, variant_of(wildcards)), but=but)
    )


def variant_of(wildcards):
    """The variant of the job's run, empty for the method itself. In a run's name, a `+` stands before it."""
    return wildcards.get("variant", "")[1:]


def evaluation(found, only=None):
    """The settings of an evaluation as `key=value` words: all of them, or those in `only`."""
    return SettingWords(stage_arguments(STAGES["evaluation"], found, only=only))


def scripted_evaluation(wildcards):
    """Params function: the settings of a scripted policy's evaluation on the set of games that the wildcards name."""
    found = evaluation_settings(config, wildcards.task, wildcards.games.removeprefix(GAMES_MARK))
    return evaluation(found, only=SCRIPTED_EVALUATION)


def checkpoint_evaluation(kind, further):
    """Params function: the settings of a trained checkpoint's evaluation.

    For each further set of games, they are followed by `--also`, the set's name and the settings that it changes.

    Args:
        kind: `sft`, `ppo` or `cnn`.
        further: names of the task's sets of games, without the first.
    """

    def on(wildcards, games):
        if kind == "cnn":
            found = cnn_evaluation_settings(config, wildcards.task, games)
            return evaluation(found, only=CNN_EVALUATION)
        return evaluation(evaluation_settings(config, wildcards.task, games, variant_of(wildcards)))

    def words(wildcards):
        first = on(wildcards, "")
        changes = {games: [word for word in on(wildcards, games) if word not in first] for games in further}
        also = [word for games, changed in changes.items() for word in ("--also", games, *changed)]
        return SettingWords([*first, *also])

    return words


def data_of(task):
    """The folders that a task's environment reads, of games or card images."""
    return [str(folder) for folder in env_folders(stage_settings(config, "ppo", task).get("env", {})).values()]


def task_data(wildcards):
    """Input function: the folders that the environment of the job's task reads."""
    return data_of(wildcards.task)


def all_data(wildcards):
    """Input function: the folders that the environments of all tasks read."""
    return [folder for task in config["tasks"] for folder in data_of(task)]


def games_read(wildcards):
    """Input function: the folders that the environments read whose images a base model learns to read."""
    return [folder for task in BASES[wildcards.base].settings["pretrain_tasks"] for folder in data_of(task)]


def bases(*kinds):
    """A pattern for the names of all base models of these kinds. If there are none, it is `(?!)`, which matches nothing."""
    return "|".join(re.escape(name) for name, model in BASES.items() if model.kind in kinds) or "(?!)"


def demonstrations_of(wildcards):
    """Input function: the demonstrations that SFT of the job's task starts from, those of the config if it names some."""
    name = DATA_NAME.format(task=wildcards.task, style=wildcards.style)
    return config["sft_data"]["given"].get(name, f"{RESULTS}/sft_data/{name}")


def base_of(wildcards):
    """Input function: the base model that SFT of the job's task starts from."""
    return base_model(config, wildcards.task).folder(RESULTS)


def warm_start_of(wildcards):
    """Input function: the SFT checkpoint that the job's PPO run starts from."""
    run = PPORun(wildcards.task, wildcards.style, float(wildcards.lam), int(wildcards.seed), variant_of(wildcards))
    return f"{RESULTS}/sft/{start_of(config, run).name}/checkpoint"


def given_files(*inputs):
    """Params function: a digest of the files in each folder that no rule makes, so that a job reruns when one changes.

    Snakemake itself compares the modification time of the folder alone, which stays when a file in it is overwritten.

    Args:
        inputs: input functions that give a folder or a list of folders. Those below `results_dir` are left out.
    """

    def digests(wildcards):
        found = [find(wildcards) for find in inputs]
        paths = [path for one in found for path in ([one] if isinstance(one, str) else one)]
        return [file_times(path) for path in paths if not Path(path).is_relative_to(RESULTS)]

    return digests


@lru_cache(maxsize=None)
def file_times(path):
    """A digest of the names, sizes and modification times of all files below a folder, or of demonstrations in a file.

    Images that demonstrations name are included, wherever they are.
    """
    place = Path(path)
    files, lists = ({*files_below(place)}, place.glob("*.json")) if place.is_dir() else ({place}, [place])
    files.update(image for file in lists for image in images_of(file))
    times = [(str(file), (now := file.stat()).st_size, now.st_mtime_ns) for file in sorted(files) if file.exists()]
    return hashlib.sha256(json.dumps(times).encode()).hexdigest()


def images_of(file):
    """The image files that demonstrations in a JSON file name; none if it is no such file, which SFT will refuse."""
    try:
        return {file.parent / entry["image"] for entry in json.loads(file.read_bytes())}
    except (OSError, ValueError, TypeError, LookupError):
        return set()


def threads_of(stage):
    """The number of threads of a stage's job, from `resources` in the config."""
    return config["resources"][stage]["threads"]


def grant(stage):
    """The other resources of a stage's job."""
    return granted(config, stage)


def shown_runs(name):
    """The PPO runs that a table or figure shows."""
    return {"tables": ppo_runs, "lambda_ablation": ablation_runs}.get(name, main_runs)(config)


def shown_cnn_runs(name):
    """The CNN+RL runs that a table or figure shows; the paper shows the baseline in table 2 and figure 5."""
    return cnn_runs(config) if name in ("tables", "training_curves") else []


def shown_evaluations(name):
    """The evaluations that a table or figure shows: of its PPO runs, and of SFT and the baselines on the same tasks.

    Only tables show variants. Evaluations over HTTP appear only in tables and the gallery; CNN+RL also appears in the
    training curves.
    """
    runs = shown_runs(name)
    tasks = {run.task for run in runs}
    shown = [run for run in evaluation_runs(config) if run.ppo in runs or (run.ppo is None and run.task in tasks)]
    left_out = {"tables": (), "gallery": (), "training_curves": ("http", "api")}.get(name, ("http", "api", "cnn"))
    return [run for run in shown if run.kind not in left_out and (name == "tables" or not run.variant)]


def packed_code(wildcards):
    """Params function: the revision and the digest of the code that an archive packs.

    Outside of a git checkout it returns the error message, so that the workflow can still be listed and drawn.
    """
    # The function does not take `output`: Snakemake never reruns a job for a change of a param whose function uses it.
    try:
        return revision_and_tree(Path(), ignore=Path(RESULTS, "archive.zip"))
    except ValueError as error:
        return str(error)


def keep_report_beside_results():
    """Make Snakemake write its report into `results_dir`, and only after a real run of `all`.

    A profile's `report:` is one fixed path, while `results_dir` comes from the config. Snakemake 9 also tries to write
    the report after a dry run, which fails on a fresh clone. After a run of fewer targets, the whole report would be
    replaced by one of those targets alone (docs/decisions/0001-one-report-per-results-folder.md).
    """
    write_report = workflow.create_report

    def create_report(report_plugin, report_settings, *args, **kwargs):
        # `snakemake --report` calls this without a DAG: write the requested report to the requested path.
        if workflow.dag is None:
            return write_report(report_plugin, report_settings, *args, **kwargs)
        asked = {job.rule.name for job in workflow.dag.targetjobs}
        if workflow.dryrun or "all" not in asked or not all(map(os.path.exists, TABLE_FILES + FIGURE_FILES)):
            return
        if str(report_settings.path) == "results/report.html":
            report_settings.path = Path(RESULTS) / "report.html"
        write_report(report_plugin, report_settings, *args, **kwargs)

    workflow.create_report = create_report


keep_report_beside_results()

# Names of folders, and the input and params functions that all the other files use.

import os
import re
import sys
import sysconfig
from pathlib import Path

from rl4vlm.archive.code import revision_and_tree
from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.config.base_models import EMBEDDED, base_model, base_models
from rl4vlm.config.stages.figures import FigureSettings
from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.config.overrides import settings_arguments, stage_arguments, training_command
from rl4vlm.config.load import (
    api_settings,
    api_style,
    CNN_EVALUATION,
    cnn_evaluation_settings,
    default_lambda,
    evaluation_settings,
    http_settings,
    stage_settings,
)
from rl4vlm.config.stages.pretrain import PretrainSettings
from rl4vlm.config.runs import ablation_runs, cnn_runs, evaluation_runs, main_runs, ppo_runs
from rl4vlm.config.code_digest import stage_sources
from rl4vlm.config.schema import STAGES

RESULTS = config["results_dir"]
# Ready weights of the embedded base models, a folder each; docs/log.md says how they were made. Beside this file, also
# where the workflow is a module of one elsewhere; used by its address, it takes those that the installed package brought.
BESIDE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
BROUGHT = Path(sysconfig.get_path("data"), "share", "rl4vlm", "base_model")
SHIPPED = os.path.relpath(BESIDE / "resources" / "base_model") if BESIDE.is_dir() else str(BROUGHT)
BASES = base_models(config)
# Only a model made here was asked what it reads.
READERS = {
    task: model.folder(RESULTS) for task in config["tasks"] if (model := base_model(config, task)).kind in EMBEDDED
}
BASE_PERCEPTIONS = [f"{task}={folder}/perception.json" for task, folder in READERS.items()]
PPO_RUN = "{task}-{style}-lambda{lam}-seed{seed}"
CNN_RUN = "{task}-seed{seed}"

# The `rl4vlm` that jobs call is that of the environment that runs Snakemake, whether or not it was activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", "")]))
# A signal that a scheduler sends to all of a job must not end the shell before the stage in it has saved its state: once
# the shell is gone, so is everything else. The stage itself gets the signal as ever.
shell.prefix("set -euo pipefail; trap : TERM USR1; ")

# All that a job on another machine reads is a file by then, so it never asks the hub: compute nodes may have no network.
if workflow.remote_exec:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


wildcard_constraints:
    task="[^/@-]+",
    # Which set of games of `evaluation.sets`: nothing for the first.
    games=r"(@\w+)?",
    style="cot|nocot",
    lam=r"\d+(\.\d+)?",
    seed=r"\d+",


def watched(entry, *choices):
    """Input function: the sources of a stage that starts in `entry`. Both may hold wildcards, as in `{task}`."""
    return lambda wildcards: stage_sources(
        entry.format(**wildcards),
        [choice.format(**wildcards) for choice in choices],
    )


def settings(stage, but=()):
    """Params function: all settings of a stage for the job's task, as `key=value` words of a command line.

    Those named in `but` are left out: the job's name decides them.
    """
    return lambda wildcards: stage_arguments(STAGES[stage], stage_settings(config, stage, wildcards.task), but=but)


def evaluation(found, only=None):
    """All settings of an evaluation as `key=value` words, or some of them."""
    return stage_arguments(STAGES["evaluation"], found, only=only)


def evaluation_arguments(wildcards):
    """Params function: the settings of an evaluation, on the set of games that the job's name says."""
    return evaluation(evaluation_settings(config, wildcards.task, wildcards.games[1:]))


def data_of(task):
    """The folder of games that a task's environment reads, if it reads one: made by a rule, or there."""
    data = stage_settings(config, "ppo", task).get("env", {}).get("data")
    return [data] if data else []


def task_data(wildcards):
    return data_of(wildcards.task)


def bases(*kinds):
    """The names of the base models that are got in one of these ways, as a pattern; it fits nothing where none is."""
    return "|".join(re.escape(name) for name, model in BASES.items() if model.kind in kinds) or "(?!)"


def base_of(wildcards):
    """The checkpoint that a task's warm start begins with."""
    return base_model(config, wildcards.task).folder(RESULTS)


def threads_of(stage):
    return config["resources"][stage]["threads"]


def grant(stage):
    """What a job of a stage asks of the machine besides threads: memory in MB, minutes, GPUs."""
    return {name: n for name, n in config["resources"][stage].items() if name not in ("threads", "processes")}


def shown_runs(name):
    """The PPO runs that a table or figure is made of."""
    return {"tables": ppo_runs, "lambda_ablation": ablation_runs}.get(name, main_runs)(config)


def shown_cnn_runs(name):
    """The CNN+RL runs that a table or figure is made of: the paper has the baseline in table 2 and figure 5."""
    return cnn_runs(config) if name in ("tables", "training_curves") else []


def shown_evaluations(name):
    """The evaluations that a table or figure is made of: of its runs, and of their tasks' warm starts and references.

    What was asked over HTTP is in tables and the gallery alone, and CNN+RL in those and the training curves.
    """
    runs = shown_runs(name)
    tasks = {run.task for run in runs}
    shown = [run for run in evaluation_runs(config) if run.ppo in runs or (run.ppo is None and run.task in tasks)]
    left_out = {"tables": (), "gallery": (), "training_curves": ("http", "api")}.get(name, ("http", "api", "cnn"))
    return [run for run in shown if run.kind not in left_out]


def packed_code(wildcards):
    """Params function: the revision and the files that an archive packs; outside of a git checkout, why it cannot.

    It does not ask for the job's output: Snakemake reruns nothing for params that do.
    """
    try:
        return revision_and_tree(Path(), but=Path(RESULTS, "archive.zip"))
    except ValueError as error:
        return str(error)


def keep_report_beside_results():
    """Send the report that follows a run to the folder of that run's results, and write none after a dry run.

    A profile's `report:` is one fixed path, but `results_dir` is the config's; and Snakemake 9 tries to write the
    report after a dry run too, which fails on a fresh clone. A run that was asked for less than all writes none: its
    report would be of that alone, in place of the whole one.
    """
    write_report = workflow.create_report

    def create_report(report_plugin, report_settings, *args, **kwargs):
        # There is no DAG yet where a report is all that was asked for: then it is written as it was asked for.
        if workflow.dag is None:
            return write_report(report_plugin, report_settings, *args, **kwargs)
        asked = {job.rule.name for job in workflow.dag.targetjobs}
        if workflow.dryrun or "all" not in asked or not all(map(os.path.exists, TABLES + FIGURE_FILES)):
            return
        if str(report_settings.path) == "results/report.html":
            report_settings.path = Path(RESULTS) / "report.html"
        write_report(report_plugin, report_settings, *args, **kwargs)

    workflow.create_report = create_report


keep_report_beside_results()

"""Makes an embedded base model: pre-trains it (`rl4vlm.base_model.learn`), or copies the one that is shipped."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

from rl4vlm.base_model import learn
from rl4vlm.base_model.download import BASE_MODEL_STAGES
from rl4vlm.config.code_digest import code_digest
from rl4vlm.config.stages.pretrain import PretrainSettings
from rl4vlm.core.env_folders import env_folders
from rl4vlm.core.files import RECORD, atomic_write_text
from rl4vlm.core.output import check_apart, check_unchanged, stage_output
from rl4vlm.models.weights import check_readable, read_weights
from rl4vlm.results.provenance import PERCEPTION, inputs_now, write_run_record
from rl4vlm.training.resume import resumable
from rl4vlm.training.store import StateFolder


def run(*, out: Path, settings: PretrainSettings, resume_dir: StateFolder | None = None) -> None:
    """Build, pre-train and save the base model as a Hugging Face checkpoint, and measure its perception.

    Args:
        out: folder to write; an earlier base model there is replaced.
        settings: sizes and hyperparameters.
        resume_dir: where the run's state is saved; a killed run continues from there. None saves no state.

    Raises:
        ValueError: `out` holds something other than a base model, or the training diverged.
    """
    started = time.monotonic()
    # Taken at the start: the code may be edited during the hours of training.
    digest = code_digest(learn.__name__, settings.pretrain_tasks)
    inputs = inputs_now({name: path for env in settings.task_env.values() for name, path in env_folders(env).items()})
    with resume_dir.locked() if resume_dir else nullcontext(), stage_output(out, BASE_MODEL_STAGES) as folder:
        state = learn.begin(settings)
        with resumable(
            state, resume_dir, out=folder, settings=settings, inputs=inputs, started=started, stage="base_model"
        ) as manager:
            learn.train(state, settings, folder, manager.on_step)
            backbone = state.backbone
            backbone.save(folder)
            accuracy = {name: learn.perception_accuracy(backbone, name, settings) for name in settings.pretrain_tasks}
            report = {"samples": settings.probe, "tasks": accuracy}
            atomic_write_text(folder / PERCEPTION, json.dumps(report, indent=2) + "\n")
            write_run_record(
                folder,
                stage="base_model",
                settings=vars(settings),
                seeds={"pretrain": settings.seed},
                inputs={},
                seconds=manager.seconds,
                digest=digest,
            )


def copy_shipped(*, source: Path, out: Path) -> None:
    """Copy a base model that ships with the project to where the pipeline expects it.

    Raises:
        ValueError: there is no checkpoint in `source`, it is damaged, `out` holds something other than a base model, or
            one of the two folders is in the other.
    """
    started = time.monotonic()
    check_apart(source, out)
    if not (source / "config.json").is_file():
        raise ValueError(f"no base model at {source}: config.json is missing")
    check_unchanged(source)
    check_readable(source)
    for file in source.glob("*.safetensors"):
        read_weights(file)
    with stage_output(out, BASE_MODEL_STAGES) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        if not (folder / RECORD).is_file():
            settings = {"copy": str(source)}
            seconds = time.monotonic() - started
            write_run_record(folder, stage="base_model", settings=settings, seeds={}, inputs={}, seconds=seconds)

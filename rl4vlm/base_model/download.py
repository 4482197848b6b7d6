"""Download a base model from the Hugging Face hub, so that the jobs that use it need no network."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from rl4vlm.core.output import stage_output
from rl4vlm.results.provenance import write_run_record

BASE_MODEL_STAGES = ("base_model", "prefetch")
"""Stages that write a base model's folder and so may replace it: pre-training (or a copy), and this download."""

# Other formats of the same weights, not needed beside safetensors files.
OTHER_WEIGHTS = ["*.bin", "*.pth", "*.pt", "*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.onnx_data"]


def run(*, name: str, revision: str | None, out: Path) -> None:
    """Download a model into `out`, which appears when the download is complete, and record where it came from.

    An interrupted download is kept in a hidden folder beside `out`, and continues when it is started again.

    Args:
        name: the model's name on the hub, as in `owner/model`.
        revision: branch, tag or commit; None takes the newest.
        out: folder to write; an earlier base model there is replaced.

    Raises:
        ValueError: the hub cannot be reached or has no such model or revision, or `out` is not a base model.
    """
    started = time.monotonic()
    with stage_output(out, BASE_MODEL_STAGES) as folder:
        try:
            commit, other_weights = _look_up(name, revision)
            # The commit is part of the name, so that an interrupted download of another revision is not continued.
            partial = out.with_name(f".{out.name}.{commit[:12]}.download")
            for abandoned in {*out.parent.glob(f".{out.name}.*.download")} - {partial}:
                shutil.rmtree(abandoned, ignore_errors=True)
            snapshot_download(name, revision=commit, local_dir=partial, ignore_patterns=other_weights)
        except Exception as error:  # the hub's errors and those of connections have no common type
            raise ValueError(f"cannot download {name!r} (revision {revision or 'newest'}): {error}") from error
        # The hub client's bookkeeping is not part of the model.
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        for item in [*partial.iterdir()]:
            item.rename(folder / item.name)
        partial.rmdir()
        write_run_record(
            folder,
            stage="prefetch",
            settings={"name": name, "revision": revision, "commit": commit},
            seeds={},
            inputs={},
            seconds=time.monotonic() - started,
        )


def _look_up(name: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit of a revision, and which of its files need not be downloaded."""
    info = HfApi().model_info(name, revision=revision)
    files = [file.rfilename for file in info.siblings or ()]
    if info.sha is None:
        raise ValueError(f"the hub names no commit for {name!r} (revision {revision or 'newest'})")
    return info.sha, OTHER_WEIGHTS if any(file.endswith(".safetensors") for file in files) else []

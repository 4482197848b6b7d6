"""`rl4vlm base-model --download` from a hub, and without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.hub import COMMIT, NAME, Hub, serving

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-c", "import sys; from rl4vlm.cli import main; sys.exit(main())", "base-model"]


@pytest.fixture
def hub(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Hub]:
    """A hub with the tiny checkpoint, whose weights are there in another format too."""
    folder = tmp_path / "hub"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "pytorch_model.bin").write_bytes(b"the same once more")
    with serving(Hub(folder)) as running:
        yield running


def download(hub: Hub, out: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in another process: the hub client reads the hub's address only when it is imported."""
    return subprocess.run(
        [*COMMAND, "--out", str(out), "--download", *arguments],
        env={**os.environ, "HF_HOME": str(out.parent / "hf"), "HF_ENDPOINT": hub.url, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_downloaded_model_is_complete_and_says_where_it_is_from(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "base_model"
    done = download(hub, out, NAME)
    assert done.returncode == 0, done.stderr
    files = {file: content for file, content in hub.files().items() if not file.endswith(".bin")}
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.name != "run.json"} == files
    record = json.loads((out / "run.json").read_text())
    assert record["settings"] == {"name": NAME, "revision": None, "commit": COMMIT}
    assert [entry.name for entry in tmp_path.glob(".base_model*")] == []


def test_the_weights_are_taken_in_any_format_where_there_are_no_safetensors(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").unlink()
    done = download(hub, tmp_path / "base_model", NAME, "--revision", COMMIT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "base_model" / "pytorch_model.bin").is_file()


def test_a_download_that_broke_off_leaves_nothing_and_goes_on(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "base_model"
    hub.broken.add("model.safetensors")
    broken = download(hub, out, NAME)
    assert broken.returncode != 0
    assert not out.exists()

    hub.broken.clear()
    had = {file for file in hub.files() if next(tmp_path.glob(f".base_model.*/{file}"), None)}
    assert had
    hub.sent.clear()
    done = download(hub, out, NAME)
    assert done.returncode == 0, done.stderr
    assert not had & set(hub.sent)
    assert (out / "model.safetensors").read_bytes() == hub.files()["model.safetensors"]


def test_what_cannot_be_downloaded_is_named(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "base_model"
    for arguments in ([NAME.replace("tiny", "other")], [NAME, "--revision", "nowhere"]):
        done = download(hub, out, *arguments)
        assert done.returncode == 2, done.stderr
        assert f"cannot download '{arguments[0]}'" in done.stderr
    assert not out.exists()


def test_offline_it_says_so(hub: Hub, tmp_path: Path) -> None:
    done = download(hub, tmp_path / "base_model", NAME, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert f"cannot download '{NAME}'" in done.stderr
    assert hub.sent == []

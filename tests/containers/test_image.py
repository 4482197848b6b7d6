"""The image works as documented: user, entry point, tests, workflow, and rules that run in it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers.buildah import Buildah
from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.long

# A substitute for apptainer: `exec` runs the command in the image that buildah built, with the working folder shared.
# It logs its other arguments, among them the image.
APPTAINER = """#!{python}
import subprocess, sys
if "--version" in sys.argv:
    print("apptainer version 1.4.0")
    sys.exit()
command = sys.argv[sys.argv.index("sh" if "sh" in sys.argv else "bash"):]
with open({log!r}, "a") as log:
    print(*sys.argv[1:-len(command)], file=log)
sys.exit(subprocess.run([*{run!r}, *command]).returncode)
"""


def test_it_has_the_documented_user_entry_point_and_folder(image: Buildah, settings: dict[str, object]) -> None:
    assert settings["Entrypoint"] == ["snakemake"]
    assert settings["Cmd"] == ["--cores", "all"]
    assert settings["WorkingDir"] == "/work"
    assert image.run("id", "-u").strip() == settings["User"] != "0"


def test_python_is_on_the_path_and_everything_installed_fits(image: Buildah) -> None:
    assert image.run("python", "--version").startswith("Python 3.")
    assert image.run("python", "-c", "import sys; print(sys.prefix)").strip() == "/opt/venv"
    assert "No broken requirements" in image.run("pip", "check")
    assert "NumberLine" in image.run("rl4vlm", "tasks")


def test_it_runs_the_package_of_the_working_folder(image: Buildah, clone: Path) -> None:
    where = ("python", "-c", "import rl4vlm; print(rl4vlm.__file__)")
    assert image.run(*where, work=clone).strip() == "/work/rl4vlm/__init__.py"
    assert image.run(*where).startswith("/opt/venv/")


def test_a_user_without_an_entry_in_the_image_can_run_a_job(image: Buildah, clone: Path) -> None:
    """Like `docker run --user "$(id -u):$(id -g)" -e HOME=/tmp`, in a folder owned by that user."""
    for path in (clone, *clone.rglob("*")):
        os.chown(path, 4242, 4242, follow_symlinks=False)
    target = "results/smoke/eval/random-NumberLine/summary.json"
    command = ["snakemake", "--cores", "1", target, "--configfile", "config/smoke.yaml"]
    image.run(*command, work=clone, options=["--user=4242:4242", "--env=HOME=/tmp"])
    assert (clone / target).stat().st_uid == 4242


def test_the_torch_of_the_cpu_lock_has_no_cuda(image: Buildah) -> None:
    assert image.run("python", "-c", "import torch; print(torch.version.cuda)").strip() == "None"


def test_the_test_command_passes(image: Buildah, clone: Path) -> None:
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    assert " passed" in image.run(*command, work=clone).splitlines()[-1]


def test_the_entry_point_runs_the_smoke_workflow(image: Buildah, clone: Path, settings: dict[str, object]) -> None:
    entry = settings["Entrypoint"]
    assert isinstance(entry, list)
    image.run(*entry, "--cores", "2", "--configfile", "config/smoke.yaml", work=clone)
    image.run("rl4vlm", "check-results", "--config", "config/smoke.yaml", work=clone)


def test_rules_run_in_the_image_by_the_software_deployment_of_apptainer(
    image: Buildah, settings: dict[str, object], tmp_path: Path
) -> None:
    space = Workspace(tmp_path / "copy")
    (space.folder / "rl4vlm.sif").write_text("not read: the substitute knows the image")
    log, programs = tmp_path / "apptainer.log", tmp_path / "bin"
    programs.mkdir()
    place = [f"--root={image.store / 'root'}", f"--runroot={image.store / 'run'}"]
    # Run as root, who owns the folder: apptainer keeps the host's user.
    run = ["buildah", "--storage-driver=vfs", *place, "run", "--isolation=chroot", "--user=0", "--network=host"]
    run += [f"--volume={space.folder}:{space.folder}", f"--workingdir={space.folder}", "tried", "--"]
    (programs / "apptainer").write_text(APPTAINER.format(python=sys.executable, log=str(log), run=run))
    (programs / "apptainer").chmod(0o755)
    target = "results/smoke/eval/random-NumberLine/summary.json"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "config/smoke.yaml"]
    command += ["--workflow-profile", "none", "--sdm", "apptainer", "--apptainer-args=--nv", target]
    done = subprocess.run(
        command,
        cwd=space.folder,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(space.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (space.folder / target).exists()
    (asked,) = log.read_text().splitlines()
    assert asked.startswith("exec ")
    assert "--nv" in shlex.split(asked)
    assert asked.endswith("rl4vlm.sif")

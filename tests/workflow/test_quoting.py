"""Whatever a config calls things, a job's command gives it to its stage whole, and a shell runs nothing of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from tests.workflow.conftest import Workspace

FOLDER = """my runs & (more) ~/$(touch ran); 'a' `touch ran` "b" * #"""
LABEL = "$(touch ran) {x} '"
HOSTILE = {
    "results_dir": FOLDER,
    "assets_dir": f"{FOLDER}/assets",
    "label": LABEL,
    "accelerate": "my files/$(touch ran).yaml",
    "base_model": {"per_task": {"Blackjack": {"source": "someone/model", "revision": "v1"}}},
    "task_options": {"per_task": {"EZPoints": {"prompt": {"role": "$(touch ran)\\n\n{x} 'y'"}}}},
    "resources": {"ppo": {"processes": 2}},
}


def test_every_command_keeps_every_word_whole(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.folder / "hostile.yaml").write_text(yaml.safe_dump(HOSTILE))
    (workspace.folder / "my files").mkdir()
    (workspace.folder / "my files" / "$(touch ran).yaml").touch()
    done = workspace.snakemake("--dry-run", "-p", "all", "archive", "--configfile", "config/smoke.yaml", "hostile.yaml")
    assert done.returncode == 0, done.stdout[-2000:]
    commands = re.findall(r"^Shell command: (?!None)((?:.|\n)*?\| tee .*)$", done.stdout, flags=re.MULTILINE)
    assert len(commands) > 80
    # The programs of the commands only show their words, each in a file of its own: those of a pipe write at once.
    names = ("rl4vlm", "env", "tee")
    show = [f"{name}() {{ printf '%s\\n' CALL \"$@\" >> {name}; }}" for name in names]
    script = "\n".join([*show, *commands])
    ran = subprocess.run(["bash", "-eu"], input=script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} <= {*names}
    calls = [call for path in tmp_path.iterdir() for call in path.read_text().split("CALL\n")[1:]]
    assert len(calls) == 2 * len(commands)
    assert all(FOLDER in call for call in calls)
    assert sum(f"--scale={LABEL}\n" in call for call in calls) == 7
    assert sum("--config_file\nmy files/$(touch ran).yaml\n" in call for call in calls) > 5
    assert sum(r"$(touch ran)\\n\n{x} 'y'" in call for call in calls) > 5

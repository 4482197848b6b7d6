"""What users can cause ends with one line that names the file, and with an exit code of its own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.cli import commands, main
from rl4vlm.core import workflow

RUN = "import sys; from rl4vlm.cli import main; sys.exit(main(sys.argv[1:]))"
DATA = ["sft-data", "--task", "NumberLine", "--set", "samples=2", "--out"]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 3, "a/b: No space left on device; free some space"),
        (
            PermissionError(errno.EACCES, "Permission denied", "a/b"),
            3,
            "a/b: Permission denied; change its permissions",
        ),
        (OSError("cannot identify image file 'a.png'"), 3, "error: cannot identify image file 'a.png'"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 3, "Broken pipe; another program ended"),
        (MemoryError(), 4, "out of memory"),
        # torch's, on a CPU.
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 4, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("task 'x' is unknown"), 2, "error: task 'x' is unknown"),
        (ValueError("it said \x1b[2J\nand more"), 2, r"it said \x1b[2J and more"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_error_has_its_code_and_one_line(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr(commands, "list_tasks", fail)
    assert main(["tasks"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rl4vlm tasks: ")
    assert said in line


def test_ctrl_c_says_where_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "sft_data", fail)
    command = [*DATA, str(tmp_path / "out")]
    assert main(command) == 130
    assert capsys.readouterr().err == "rl4vlm sft-data: interrupted\n"
    assert main([*command, "--state", str(tmp_path / "state")]) == 130
    said = f"interrupted; the same command continues from its last state in {tmp_path / 'state'}, if there is one\n"
    assert said in capsys.readouterr().err


def test_a_path_that_no_record_could_hold_is_refused_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DATA, os.fsdecode(b"out-\xff")]) == 2
    assert "the command line is not UTF-8: " in capsys.readouterr().err


def test_an_error_that_no_user_caused_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(commands, "list_tasks", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["tasks"])


def test_a_state_that_could_not_be_saved_is_refused_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").touch()
    assert main([*DATA, str(tmp_path / "out"), "--state", str(tmp_path / "state")]) == 3
    assert f"{tmp_path / 'state'}: the states need a folder" in capsys.readouterr().err


def test_the_working_folder_can_hold_a_state_but_an_empty_name_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*DATA, str(tmp_path / "out"), "--state", "."]) == 0
    with pytest.raises(SystemExit, match="2"):
        main([*DATA, str(tmp_path / "out"), "--state", ""])
    assert "argument --state: it is empty; name a folder" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "given"), [("--state", "/"), ("--state", "/.."), ("--out", "/")])
def test_the_root_of_the_file_system_holds_neither_state_nor_output(
    option: str, given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*DATA, str(tmp_path / "out"), option, given])
    assert f"argument {option}: {given!r} is the root of the file system" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "free some space"), (errno.EFBIG, "raise the limit")])
def test_a_state_on_a_full_disk_is_a_failed_file(
    number: int, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> None:
        raise ValueError("the run's state cannot be saved") from OSError(number, os.strerror(number))

    monkeypatch.setattr(commands, "list_tasks", fail)
    assert main(["tasks"]) == 3
    assert f"the run's state cannot be saved; {advice}" in capsys.readouterr().err


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for out in ("file", "file/inside"):
        assert main([*DATA, str(tmp_path / out)]) in (2, 3)
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{tmp_path}/file" in line


def test_a_full_disk_is_named_while_a_stage_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        assert main([*DATA, str(tmp_path / "out")]) == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert f"{tmp_path / 'out'}" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_and_a_terminal_without_utf_8_give_no_traceback() -> None:
    command = f"{sys.executable} -c '{RUN}' tasks | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    shown = [sys.executable, "-c", RUN, "play", "Blackjack", "--policy", "stand17", "--seed", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    played = subprocess.run(shown, capture_output=True, env=environment, check=False)
    assert played.returncode == 0, played.stderr


def test_a_stage_ends_with_its_workflow(tmp_path: Path) -> None:
    """Killed by SIGKILL, a workflow cannot end its jobs."""
    stage = "import sys, time; from rl4vlm.core import workflow; workflow.SECONDS_BETWEEN_LOOKS = 0.05;"
    stage += "workflow.end_with_workflow(); open(sys.argv[1], 'w').close(); time.sleep(60)"
    # The stage's parent is a shell, as in a rule, and the workflow is the parent of that.
    started = "import os, subprocess, sys; from rl4vlm.core.workflow import announcement\n"
    started += "os.environ['RL4VLM_WORKFLOW'] = announcement()\n"
    started += 'subprocess.run(["bash", "-c", \'"$0" -c "$1" "$2" 2>&1 | cat >"$2.log"\', *sys.argv[1:]])'
    words = [sys.executable, "-c", started, sys.executable, stage, str(tmp_path / "runs")]
    with subprocess.Popen(words) as workflow:
        _wait_for((tmp_path / "runs").exists)
        workflow.kill()
    _wait_for(lambda: "is gone: this stage ends, too" in (tmp_path / "runs.log").read_text())


def test_a_stage_ends_if_its_workflow_was_killed_while_it_started() -> None:
    announced = "from rl4vlm.core.workflow import announcement; print(announcement())"
    workflow = subprocess.run([sys.executable, "-c", announced], capture_output=True, text=True, check=True)
    stage = "import time; from rl4vlm.core.workflow import end_with_workflow; end_with_workflow(); time.sleep(60)"
    environment = {**os.environ, "RL4VLM_WORKFLOW": workflow.stdout.strip()}
    done = subprocess.run([sys.executable, "-c", stage], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGTERM
    assert "is gone: this stage ends, too" in done.stderr


def test_without_proc_no_workflow_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path, **_: Any) -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))

    assert workflow._is_gone(2**22 + 1)  # above the largest process id
    monkeypatch.setattr(Path, "read_text", missing)
    assert not workflow._is_gone(2**22 + 1)


def _wait_for(condition: Any) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_librarys_message_is_one_line_without_passwords(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> None:
        raise ValueError("Server error for url 'http://me:secret@host/api'\nFor more information check: elsewhere")

    monkeypatch.setattr(commands, "list_tasks", fail)
    assert main(["tasks"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "host/api" in line
    assert "secret" not in line


def test_a_full_disk_behind_the_output_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(OSError), Path("/dev/full").open("w") as full:  # closing it fails, too
        monkeypatch.setattr("sys.stdout", full)
        assert main(["tasks"]) == 3
        monkeypatch.undo()
    assert "error: standard output: No space left on device; free some space" in capsys.readouterr().err


def test_a_closed_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["tasks"]) == 0


def test_a_broken_connection_is_told_without_an_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(commands, "list_tasks", fail)
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["tasks"]) == 3
    assert "another program ended" in capsys.readouterr().err


def test_a_seed_that_libraries_cannot_take_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cnn", "--task", "NumberLine", "--out", "out", "--seed", str(2**32)])
    assert "argument --seed: 4294967296 is above 4294967295" in capsys.readouterr().err


def test_a_set_of_games_that_is_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["--also", "x", "episodes=3", "--also", "x", "episodes=4"]
    assert main(["evaluate", "random", "NumberLine", "--out", str(tmp_path / "out"), *twice]) == 2
    assert "--also x is given twice" in capsys.readouterr().err


def test_standard_error_may_be_closed(tmp_path: Path) -> None:
    """As some schedulers and services start a program."""
    command = [str(Path(sys.executable).with_name("rl4vlm")), "evaluate", "random", "NumberLine"]
    command += ["--out", str(tmp_path / "out"), "--set", "episodes=2"]
    closed = ["bash", "-c", 'exec "$@" 2>&-', "bash", *command]
    done = subprocess.run(closed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out" / "summary.json").is_file()


@pytest.mark.parametrize("command", [["sft-data", "--task", "NumberLine"], ["evaluate", "random", "NumberLine"]])
def test_an_empty_output_folder_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It would be the current folder."""
    with pytest.raises(SystemExit):
        main([*command, "--out", ""])
    assert "argument --out: it is empty" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["NumberLine=abc", "NumberLine", "NumberLine=", "=0.4", "NumberLine=nan"])
def test_a_lambda_without_its_task_or_number_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tables", "--out", "out", "--thought-prob-coef", text])
    expected = f"argument --thought-prob-coef: '{text}' does not have the form TASK=NUMBER, such as NumberLine=0.5"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("text", ["perception.json", "NumberLine=", "=perception.json"])
def test_a_base_perception_without_its_task_or_file_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tables", "--out", "out", "--base-perceptions", text])
    assert f"argument --base-perceptions: '{text}' does not have the form TASK=FILE" in capsys.readouterr().err

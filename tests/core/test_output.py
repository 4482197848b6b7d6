"""A stage's outputs: published whole, and nothing that is not the stage's own is ever replaced."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from rl4vlm.core.files import atomic_write_text, read_json
from rl4vlm.core.lock import locked, scratch_folder
from rl4vlm.core.output import check_apart, check_unchanged, stage_output
from rl4vlm.results.provenance import write_run_record

NAMES = ("checkpoint", "metrics.jsonl")


def write(out: Path, text: str = "one", *, stage: str = "ppo", files: tuple[str, ...] = ("w.bin",)) -> None:
    with stage_output(out, ["ppo"], NAMES) as folder:
        (folder / "checkpoint").mkdir()
        for name in files:
            (folder / "checkpoint" / name).write_text(text)
        (folder / "metrics.jsonl").write_text(text)
        write_run_record(folder, stage=stage, settings={}, seeds={}, inputs={}, seconds=0.0)


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_outputs_appear_together_and_replace_their_own_kind(tmp_path: Path) -> None:
    out = tmp_path / "up" / "out"
    write(out, files=("w.bin", "x.bin"))
    (out / "notes.txt").write_text("mine")
    with stage_output(out, ["ppo"], NAMES) as folder:
        assert list(folder.iterdir()) == []
        assert (out / "metrics.jsonl").read_text() == "one"
    write(out, "two")
    assert content(out).keys() == {"checkpoint/w.bin", "metrics.jsonl", "notes.txt", "run.json"}
    assert (out / "metrics.jsonl").read_text() == (out / "checkpoint" / "w.bin").read_text() == "two"
    assert sorted(read_json(out / "run.json")["outputs"]) == ["checkpoint/w.bin", "metrics.jsonl"]


@pytest.mark.parametrize("taken", ["checkpoint/thesis.txt", "metrics.jsonl", "run.json"])
def test_what_the_stage_did_not_write_survives(taken: str, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    for earlier in (False, True):
        if earlier:
            write(out)
        (out / taken).parent.mkdir(parents=True, exist_ok=True)
        (out / taken).write_text('{"stage": "figures", "outputs": {"checkpoint/w.bin": ""}}')
        before = content(out)
        if earlier and taken == "metrics.jsonl":
            continue  # edited, but still the stage's own
        with pytest.raises(ValueError, match=rf"mine/{taken} would be replaced.* stage ppo wrote it; name a new"):
            write(out)
        assert content(out) == before
        (out / taken).unlink()
        (out / "checkpoint").mkdir(exist_ok=True)


def test_of_a_whole_folder_everything_counts(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.tex would be replaced"), stage_output(tmp_path, ["games"]):
        pytest.fail("the folder was handed out")
    with pytest.raises(ValueError, match=r"thesis\.tex is a file"), stage_output(tmp_path / "thesis.tex", ["games"]):
        pytest.fail("the file was taken for a folder")
    assert [*content(tmp_path)] == ["thesis.tex"]


@pytest.mark.parametrize("inside", ["checkpoint", "checkpoint/deeper", "link"])
def test_a_part_of_another_runs_output_is_refused(inside: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run)
    (tmp_path / "link").symlink_to(run / "checkpoint")
    before = content(run)
    out = (tmp_path if inside == "link" else run) / inside
    with pytest.raises(ValueError, match=rf"{out} is part of the output that {run}/run\.json lists: name a folder"):
        write(out)
    assert content(run) == before
    # A folder beside the outputs is no part of them.
    write(run / "evaluations")
    write(run)


@pytest.mark.parametrize("text", ["[]", '"text"', "{", '{"outputs": []}'])
def test_a_file_above_that_is_no_record_stops_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    write(tmp_path / "run")
    assert (tmp_path / "run.json").read_text() == text
    check_unchanged(tmp_path / "run" / "checkpoint")


def test_a_record_cannot_make_a_stage_remove_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "out").mkdir()
    outputs = dict.fromkeys(("../thesis.tex", str(tmp_path / "thesis.tex")), "")
    (tmp_path / "out" / "run.json").write_text(json.dumps({"stage": "ppo", "outputs": outputs}))
    write(tmp_path / "out")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_error_leaves_what_was_there_and_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with stage_output(tmp_path / "a" / "out", ["ppo"], NAMES) as folder:
            (folder / "metrics.jsonl").write_text("half")
            raise RuntimeError

    for before in (set(), {"out/checkpoint/w.bin", "out/metrics.jsonl", "out/run.json"}):
        with pytest.raises(RuntimeError):
            fail()
        assert content(tmp_path / "a").keys() == set(before)
        assert (tmp_path / "a").exists() == bool(before)
        write(tmp_path / "a" / "out")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.core.test_output import write
moves = 0
replace = Path.replace
def die_at(self, target):
    global moves
    moves += self.parent.name != "out" and target.parent.name != ".unfinished"
    if moves > int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = die_at
write(Path(sys.argv[1]), "two")
"""


def test_a_draft_that_was_removed_meanwhile_is_not_published(tmp_path: Path) -> None:
    def removed() -> None:
        with stage_output(tmp_path, ["ppo"], keep_draft=True) as draft:
            shutil.rmtree(draft)
            write_run_record(draft, stage="ppo", settings={}, seeds={}, inputs={}, seconds=0.0)

    with pytest.raises(OSError, match="removed while the stage wrote to it"):
        removed()
    # Nor by the next run, which publishes a draft with a record.
    with suppress(KeyboardInterrupt), stage_output(tmp_path, ["ppo"]):
        raise KeyboardInterrupt
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_killed_while_files_move_the_next_run_finishes_the_move(moved: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, files=("w.bin", "x.bin"))
    command = [sys.executable, "-c", KILLED, str(out), str(moved), str(Path(__file__).parents[2])]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    if moved:
        with pytest.raises(ValueError, match=r"damaged or was changed|missing"):
            check_unchanged(out)
    with suppress(InterruptedError), stage_output(out, ["ppo"], NAMES):
        raise InterruptedError
    assert content(out).keys() == {"checkpoint/w.bin", "metrics.jsonl", "run.json"}
    assert (out / "metrics.jsonl").read_text() == (out / "checkpoint" / "w.bin").read_text() == "two"
    check_unchanged(out)
    assert not (out / ".unfinished").exists()


def test_two_runs_at_once_are_refused_and_the_first_is_named(tmp_path: Path) -> None:
    with (
        stage_output(tmp_path, ["ppo"], NAMES),
        pytest.raises(ValueError, match=rf"process {os.getpid()} on \S+ is at work on {tmp_path}: wait until it ends"),
    ):
        write(tmp_path)
    write(tmp_path)
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    ("lock", "held"),
    [
        ("run/.lock", "run"),
        ("run/.st.lock", "run/st"),
        ("run/..st.lock", "run/.st"),
        ("run/.figure.lock", "run/figure"),
    ],
)
def test_what_a_lock_stands_for_is_named(lock: str, held: str, tmp_path: Path) -> None:
    message = rf"is at work on {re.escape(str(tmp_path / held))}: .*its lock is {re.escape(str(tmp_path / lock))}\)"
    with locked(tmp_path / lock), pytest.raises(ValueError, match=message), locked(tmp_path / lock):
        pytest.fail("it was locked twice")


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = "import os, sys, signal; from pathlib import Path; from rl4vlm.core.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False).returncode != 0
    assert (tmp_path / "lock").exists()
    with locked(tmp_path / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_draft_that_a_kill_left_is_written_over(tmp_path: Path) -> None:
    code = "import os, sys, signal; from pathlib import Path; from rl4vlm.core.files import atomic_file\n"
    code += "with atomic_file(Path(sys.argv[1])) as draft: draft.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False)
    assert [*content(tmp_path)]
    atomic_write_text(tmp_path / "a", "whole")
    assert content(tmp_path) == {"a": b"whole"}


def test_a_scratch_folder_that_a_kill_left_is_removed_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, signal; from rl4vlm.core.lock import scratch_folder\n"
    code += "with scratch_folder('x-') as folder: (folder / 'a').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    assert len([*tmp_path.glob("x-*/a")]) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder("x-") as first, scratch_folder("x-") as second:
        assert {*tmp_path.glob("x-*")} == {first, second}
    assert list(tmp_path.iterdir()) == []


class TestCheckUnchanged:
    def test_names_the_file_that_differs(self, tmp_path: Path) -> None:
        write(tmp_path)
        for path in (tmp_path, tmp_path / "checkpoint", tmp_path / "checkpoint" / "w.bin", tmp_path / "metrics.jsonl"):
            check_unchanged(path)
        (tmp_path / "checkpoint" / "w.bin").write_text("onf")
        check_unchanged(tmp_path / "metrics.jsonl")
        with pytest.raises(ValueError, match=r"checkpoint/w\.bin is damaged or was changed: \S+/run\.json lists it"):
            check_unchanged(tmp_path / "checkpoint")
        (tmp_path / "checkpoint" / "w.bin").unlink()
        with pytest.raises(ValueError, match=r"w\.bin is missing"):
            check_unchanged(tmp_path / "checkpoint")

    def test_a_record_in_a_folder_does_not_hide_the_one_beside_it(self, tmp_path: Path) -> None:
        write(tmp_path)
        write(tmp_path / "other")
        for name in ("run.json", *NAMES):
            (tmp_path / "other" / name).rename(tmp_path / "checkpoint" / name)
        check_unchanged(tmp_path / "checkpoint")
        (tmp_path / "checkpoint" / "w.bin").write_text("onf")
        with pytest.raises(ValueError, match=rf"w\.bin is damaged or was changed: {tmp_path}/run\.json lists it"):
            check_unchanged(tmp_path / "checkpoint")

    def test_a_folder_one_level_deeper_is_compared_too(self, tmp_path: Path) -> None:
        write(tmp_path)
        kept = tmp_path / "checkpoints" / "8"
        kept.parent.mkdir()
        (tmp_path / "checkpoint").rename(kept)
        record = (tmp_path / "run.json").read_text()
        (tmp_path / "run.json").write_text(record.replace("checkpoint/", "checkpoints/8/"))
        check_unchanged(kept)
        (kept / "w.bin").write_text("onf")
        with pytest.raises(ValueError, match=r"8/w\.bin is damaged or was changed"):
            check_unchanged(kept)

    def test_what_no_record_lists_is_not_compared(self, tmp_path: Path) -> None:
        check_unchanged(tmp_path / "model")
        (tmp_path / "run.json").write_text("{}")
        (tmp_path / "model").mkdir()
        check_unchanged(tmp_path / "model")


def test_what_a_stage_starts_from_is_apart_from_what_it_writes(tmp_path: Path) -> None:
    (tmp_path / "sft" / "checkpoint").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "sft")
    check_apart(tmp_path / "sft" / "checkpoint", tmp_path / "ppo" / "checkpoint")
    check_apart("owner/model", tmp_path / "sft" / "checkpoint")
    for source in ("sft/checkpoint", "link/checkpoint", "sft"):
        with pytest.raises(ValueError, match="would be overwritten"):
            check_apart(tmp_path / source, tmp_path / "sft" / "checkpoint")

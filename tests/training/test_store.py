"""States are complete or absent; a damaged one is reported and skipped; another run's is never used."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.training import store as states
from rl4vlm.training.store import KEEP, MANIFEST, StateStore, damage

KEY = {"seed": 1, "settings": {"rate": 0.1, "envs": 2}}


def save(store: StateStore, text: str) -> None:
    with store.saving() as draft:
        for name in ("a.bin", "b.bin"):
            with draft.file(name) as file:
                file.write(f"{text} {name}".encode())


def content(store: StateStore) -> str | None:
    folder = store.newest()
    return None if folder is None else (folder / "a.bin").read_text().split()[0]


class Store(StateStore):
    """A store that collects its messages in `lines`."""

    def __init__(self, folder: Path, key: dict[str, Any] = KEY) -> None:
        self.lines: list[str] = []
        super().__init__(folder, key, report=self.lines.append)


@pytest.fixture
def saved(tmp_path: Path) -> Store:
    store = Store(tmp_path / "state")
    for text in ("one", "two", "three"):
        save(store, text)
    return Store(tmp_path / "state")


def home(store: StateStore) -> Path:
    (folder,) = (entry for entry in store.folder.iterdir() if entry.is_dir())
    return folder


def numbered(store: StateStore) -> list[str]:
    return sorted(entry.name for entry in home(store).iterdir() if entry.is_dir())


def test_nothing_saved_nothing_found(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    assert store.newest() is None
    assert store.lines == []
    store.clear()


def test_the_newest_is_found_and_older_ones_are_removed(saved: Store) -> None:
    assert content(saved) == "three"
    assert numbered(saved) == ["00000002", "00000003"]
    assert len(numbered(saved)) == KEEP
    save(saved, "four")
    assert (content(saved), numbered(saved)) == ("four", ["00000003", "00000004"])
    assert saved.lines == []


@pytest.mark.parametrize("name", ["a.bin", "b.bin", MANIFEST])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove", "empty"])
def test_a_damaged_state_is_named_and_the_one_before_it_used(saved: Store, name: str, harm: str) -> None:
    file = home(saved) / "00000003" / name
    data = bytearray(file.read_bytes())
    if harm == "remove":
        file.unlink()
    elif harm == "flip":
        place = data.index(b'"name"') if name == MANIFEST else len(data) // 2
        data[place] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes(data[: len(data) // 2] if harm == "cut" else b"")
    assert content(saved) == "two"
    (line,) = saved.lines
    assert "00000003 is damaged" in line
    assert name in line
    save(saved, "four")
    assert numbered(saved) == ["00000002", "00000004"]
    assert content(saved) == "four"


def test_a_manifest_that_is_nested_too_deeply_is_a_damaged_state(saved: Store) -> None:
    (home(saved) / "00000003" / MANIFEST).write_text("[" * 100_000)
    assert content(saved) == "two"


def test_any_flipped_bit_of_a_manifest_is_harmless_or_found(saved: Store) -> None:
    file = home(saved) / "00000003" / MANIFEST
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        file.write_bytes(changed)
        found = damage(file.parent)
        if found is None:
            assert json.loads(changed) == json.loads(whole)


def test_if_all_are_damaged_the_run_starts_from_the_beginning(saved: Store) -> None:
    for name in numbered(saved):
        (home(saved) / name / "a.bin").write_bytes(b"")
    assert saved.newest() is None
    assert len(saved.lines) == 3
    assert "starts from the beginning" in saved.lines[-1]
    save(saved, "new")
    assert (content(saved), numbered(saved)) == ("new", ["00000004"])


def test_another_keys_state_is_not_used_but_named_and_kept(saved: Store) -> None:
    other = Store(saved.folder, {"seed": 1, "settings": {"rate": 0.2, "envs": 2}, "task": "B"})
    there = home(saved)
    assert other.newest() is None
    (line,) = other.lines
    assert str(there) in line
    assert "differs in settings.rate, task" in line
    assert "remove the folder to discard it" in line
    assert content(saved) == "three"
    save(other, "else")
    save(other, "more")
    assert content(other) == "more"
    assert content(saved) == "three"
    other.clear()
    assert str(there) in other.lines[-1]
    assert content(saved) == "three"
    assert [*saved.folder.iterdir()] == [there]
    saved.clear()
    assert not saved.folder.exists()


def test_an_error_while_saving_leaves_what_was_there(saved: Store) -> None:
    def fail() -> None:
        with saved.saving() as draft:
            with draft.file("a.bin") as file:
                file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (content(saved), numbered(saved)) == ("three", ["00000002", "00000003"])


@pytest.mark.parametrize("place", ["device", "fsync", "mkdtemp", "manifest"])
def test_a_full_disk_leaves_the_former_state_and_names_the_folder(
    saved: Store, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def on_a_full_device() -> None:
        with saved.saving() as draft:
            (draft.folder / "a.bin").symlink_to("/dev/full")
            with draft.file("a.bin") as file:
                file.write(bytes(100_000))

    assert content(saved) == "three"
    with monkeypatch.context() as patch:
        if place == "manifest":
            patch.setattr(states, "atomic_write_text", full)
        elif place != "device":
            patch.setattr(f"{'os' if place == 'fsync' else 'tempfile'}.{place}", full)
        with pytest.raises(ValueError, match=f"{home(saved)}: No space left on device; .* kept, 00000003"):
            on_a_full_device() if place == "device" else save(saved, "four")
    assert (content(saved), numbered(saved)) == ("three", ["00000002", "00000003"])
    assert [entry.name for entry in home(saved).iterdir() if entry.name.startswith(".")] == []
    save(saved, "four")
    assert content(saved) == "four"


@pytest.mark.parametrize("step", ["bytes", "fsync", "rename"])
def test_killed_in_the_middle_of_a_save(saved: Store, step: str) -> None:
    """Kill another process after half of a file, before the file is on disk, or before the folder is renamed."""
    script = """
import os, signal, sys
from pathlib import Path
from rl4vlm.training import store as states
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
store = states.StateStore(Path(sys.argv[1]), {"seed": 1, "settings": {"rate": 0.1, "envs": 2}})
with store.saving() as draft:
    with draft.file("a.bin") as file:
        file.write(b"four")
        if sys.argv[2] == "bytes":
            file._raw.flush()
            die()
        if sys.argv[2] == "fsync":
            os.fsync = die
    Path.rename = die
"""
    done = subprocess.run([sys.executable, "-c", script, str(saved.folder), step], check=False)
    assert done.returncode == -signal.SIGKILL
    assert any(entry.name.startswith(".") for entry in home(saved).iterdir())
    assert content(saved) == "three"
    assert saved.lines == []
    save(saved, "four")
    assert (content(saved), numbered(saved)) == ("four", ["00000003", "00000004"])
    assert not any(entry.name.startswith(".") for entry in home(saved).iterdir())


def test_clear_removes_everything(saved: Store) -> None:
    saved.clear()
    assert not saved.folder.exists()


def test_a_folder_that_is_no_state_is_not_spoken_of(tmp_path: Path) -> None:
    (tmp_path / "state" / "checkpoint").mkdir(parents=True)
    store = Store(tmp_path / "state")
    save(store, "one")
    store.clear()
    assert not any("checkpoint" in line for line in store.lines)

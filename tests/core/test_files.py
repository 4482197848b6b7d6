"""Atomic writes, JSON files and checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from rl4vlm.core import files
from rl4vlm.core.files import (
    JsonLines,
    atomic_directory,
    atomic_file,
    atomic_write_all,
    atomic_write_bytes,
    atomic_write_text,
    jsonable,
    read_json,
    read_json_lines,
    read_yaml,
    sha256_of,
)
from rl4vlm.core.types import Style


class TestAtomicFile:
    def test_writes_and_replaces_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        file = tmp_path / "new" / "a.txt"
        for text in ("ünö\n", "two"):
            atomic_write_text(file, text)
            assert file.read_text(encoding="utf-8") == text
        atomic_write_bytes(file, b"\xff")
        assert file.read_bytes() == b"\xff"
        assert [path.name for path in file.parent.iterdir()] == ["a.txt"]

    def test_has_the_permissions_of_any_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_text("")
        atomic_write_text(tmp_path / "atomic", "")
        assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_a_failure_leaves_the_old_file(self, tmp_path: Path) -> None:
        file = tmp_path / "a.txt"
        file.write_text("old")

        def fail() -> None:
            with atomic_file(file) as draft:
                draft.write_text("new")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert file.read_text() == "old"
        assert list(tmp_path.iterdir()) == [file]


class TestAtomicWriteAll:
    @pytest.mark.parametrize("full_disk", [False, True])
    def test_no_file_is_replaced_before_each_was_flushed_once(
        self, full_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files, flushed = [tmp_path / "a", tmp_path / "b"], []

        def flush(draft: Path) -> None:
            flushed.append(draft.read_text())
            assert [file.read_text() for file in files] == ["old", "old"]
            if full_disk and len(flushed) == 2:
                raise OSError(errno.ENOSPC, "full")

        for file in files:
            file.write_text("old")
        monkeypatch.setattr("rl4vlm.core.files.flush", flush)
        with pytest.raises(OSError, match=r"full: '.*/b'") if full_disk else nullcontext():
            atomic_write_all(dict(zip(files, (b"new a", b"new b"), strict=True)))
        assert flushed == ["new a", "new b"]
        assert [file.read_text() for file in files] == (["old", "old"] if full_disk else flushed)
        assert sorted(tmp_path.iterdir()) == files


class TestAtomicDirectory:
    def test_appears_only_when_it_is_complete(self, tmp_path: Path) -> None:
        with atomic_directory(tmp_path / "up" / "out") as folder:
            (folder / "a").write_text("1")
            assert not (tmp_path / "up" / "out").exists()
        assert (tmp_path / "up" / "out" / "a").read_text() == "1"
        assert [path.name for path in (tmp_path / "up").iterdir()] == ["out"]

    def test_replaces_an_existing_folder(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "old").write_text("")
        with atomic_directory(out) as folder:
            (folder / "new").write_text("")
        assert [path.name for path in out.iterdir()] == ["new"]
        assert list(tmp_path.iterdir()) == [out]

    def test_a_failure_leaves_the_old_folder(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "old").write_text("")

        def fail() -> None:
            with atomic_directory(out) as folder:
                (folder / "new").write_text("")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert [path.name for path in out.iterdir()] == ["old"]
        assert list(tmp_path.iterdir()) == [out]


class TestJsonLines:
    def test_each_line_is_on_disk_at_once(self, tmp_path: Path) -> None:
        with JsonLines(tmp_path / "x" / "m.jsonl") as lines:
            lines.write({"a": 1, "b": None})
            assert (tmp_path / "x" / "m.jsonl").read_text() == '{"a": 1, "b": null}\n'
            lines.write({"a": np.float32(0.5)})
        read = [json.loads(line) for line in (tmp_path / "x" / "m.jsonl").read_text().splitlines()]
        assert read == [{"a": 1, "b": None}, {"a": 0.5}]

    def test_replaces_the_file_unless_append_is_set(self, tmp_path: Path) -> None:
        for append, expected in ((False, 1), (True, 2), (False, 1)):
            with JsonLines(tmp_path / "m.jsonl", append=append) as lines:
                lines.write({})
            assert len((tmp_path / "m.jsonl").read_text().splitlines()) == expected

    def test_writes_nan_and_infinity_as_null(self, tmp_path: Path) -> None:
        with JsonLines(tmp_path / "m.jsonl") as lines:
            lines.write({"nan": float("nan"), "inf": np.float64("inf")})
        assert (tmp_path / "m.jsonl").read_text() == '{"nan": null, "inf": null}\n'


class TestReadJson:
    def test_yields_every_line_with_its_place(self, tmp_path: Path) -> None:
        file = tmp_path / "a.jsonl"
        lines: list[dict[str, Any]] = [{"reply": "one\u2028two\x85three"}, {"x": [1, None]}]
        with JsonLines(file) as written:
            for line in lines:
                written.write(line)
        assert list(read_json_lines(file)) == [(f"{file}, line 1", lines[0]), (f"{file}, line 2", lines[1])]
        # As another program may write it: separators unescaped, and no newline at the end.
        file.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
        assert [line for _, line in read_json_lines(file)] == lines
        file.write_text("")
        assert list(read_json_lines(file)) == []

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b'{"a": 1}\n{"a"\n', r"a\.jsonl, line 2 is not JSON"),
            (b'{"a": 1}\n\n{"a": 1}\n', r"a\.jsonl, line 2 is not JSON"),
            (b'{"a": 1}\n[2]\n', r"a\.jsonl, line 2 is no JSON object but '\[2\]'"),
            (b'"\xff"\n', r"a\.jsonl is not UTF-8 text"),
            (b'{"a": -Infinity}\n', r"a\.jsonl, line 1 is not JSON: -Infinity is no finite number"),
            (b'{"a": ' + b"1" * 5000 + b"}\n", r"a\.jsonl, line 1 is not JSON: .*4300 digits"),
            (b'{"a": ' + b"[" * 100_000, r"a\.jsonl, line 1 is not JSON"),
        ],
    )
    def test_names_the_line_that_is_broken(self, tmp_path: Path, content: bytes, complaint: str) -> None:
        file = tmp_path / "a.jsonl"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=complaint):
            list(read_json_lines(file))

    def test_of_a_whole_file(self, tmp_path: Path) -> None:
        file = tmp_path / "a.json"
        with pytest.raises(ValueError, match=r"a\.json is missing"):
            read_json(file)
        file.write_text("[]")
        with pytest.raises(ValueError, match=r"a\.json is no JSON object"):
            read_json(file)
        file.write_text('{\n"a": 1\n}')
        assert read_json(file) == {"a": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"a: [",
        b"a: \xff",
        b"a: \0",
        b"a: 2026-99-99",
        b"a: " + b"1" * 5000,
        b"!!bool x",
        b"[" * 500,
        b"!!python/name:os",
    ],
    ids=lambda content: content[:20],
)
def test_yaml_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.yaml is not (YAML|UTF-8 text)"):
        read_yaml(tmp_path / "a.yaml")


def test_jsonable_converts_all_types_that_settings_hold() -> None:
    @dataclass(frozen=True)
    class Inner:
        sizes: tuple[int, ...]

    value = {
        "path": Path("a/b"),
        "style": Style.COT,
        "inner": Inner((1, 2)),
        "array": np.array([[1.0, np.nan]]),
        "scalar": np.float32(0.5),
        "view": MappingProxyType({"a": -math.inf}),
        3: {1},
    }
    plain = jsonable(value)
    assert plain == {
        "path": "a/b",
        "style": "cot",
        "inner": {"sizes": [1, 2]},
        "array": [[1.0, None]],
        "scalar": 0.5,
        "view": {"a": None},
        "3": [1],
    }
    assert json.loads(json.dumps(plain)) == plain
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        jsonable({"a": object()})


class TestSha256:
    def test_of_a_file_and_of_a_missing_one(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"content")
        assert sha256_of(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()
        assert sha256_of(Path("llava-hf/llava-v1.6-mistral-7b-hf")) is None

    def test_a_large_file_is_read_once_until_it_changes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[Path] = []
        content = files._sha256_of_content
        monkeypatch.setattr(files, "LARGE", 4)

        def noted(path: Path) -> str:
            read.append(path)
            return content(path)

        monkeypatch.setattr(files, "_sha256_of_content", noted)
        file = tmp_path / "weights"
        file.write_bytes(b"content")
        first = sha256_of(file)
        assert first == sha256_of(file) == hashlib.sha256(b"content").hexdigest()
        assert len(read) == 1
        file.write_bytes(b"longer content")
        assert sha256_of(file) == hashlib.sha256(b"longer content").hexdigest()

    def test_of_a_folder_covers_names_and_contents(self, tmp_path: Path) -> None:
        def digest(name: str, files: dict[str, str]) -> str | None:
            for file, text in files.items():
                (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name / file).write_text(text)
            return sha256_of(tmp_path / name)

        first = digest("one", {"a": "1", "sub/b": "2"})
        assert first == digest("two", {"sub/b": "2", "a": "1"})
        changed = [{"a": "1", "sub/b": "3"}, {"a": "1", "sub/c": "2"}, {"a": "1"}]
        assert len({first, *(digest(f"other{n}", files) for n, files in enumerate(changed))}) == 4

    def test_of_a_folder_with_a_name_that_is_not_utf8(self, tmp_path: Path) -> None:
        (tmp_path / os.fsdecode(b"n\xff.txt")).touch()
        assert len(sha256_of(tmp_path) or "") == 64

    def test_of_symbolic_links_is_that_of_their_targets(self, tmp_path: Path) -> None:
        kept, linked = tmp_path / "kept", tmp_path / "linked"
        (kept / "sub").mkdir(parents=True)
        (kept / "sub" / "b").write_text("2")
        (kept / "a").write_text("1")
        linked.mkdir()
        for item in kept.iterdir():
            (linked / item.name).symlink_to(item)
        (linked / ".snakemake_timestamp").touch()
        assert sha256_of(linked) == sha256_of(kept)
        (kept / "sub" / "b").write_text("3")
        assert sha256_of(linked) == sha256_of(kept)
        (kept / "sub" / "b").unlink()
        assert sha256_of(linked) == sha256_of(kept)
        assert sha256_of(linked) != sha256_of(kept / "sub")


def test_the_floors_below_the_models_never_load_torch() -> None:
    modules = ["config.load", "config.runs", "core.files", "core.progress", "core.seeding", "results.intervals"]
    code = f"import sys, {', '.join(f'rl4vlm.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_key_that_yaml_has_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: &common {x: 1}\nb: {<<: *common, x: 2}\nc: {<<: *common}\n")
    assert read_yaml(file) == {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 1}}
    file.write_text("ppo:\n  EZPoints: {rate: 1}\n  EZPoints: {envs: 2}\n")
    with pytest.raises(
        ValueError, match=r"config\.yaml is not YAML: the key 'EZPoints' is there twice, again in line 3"
    ):
        read_yaml(file)

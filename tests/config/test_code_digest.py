"""The files that a stage is made of: no edit may be missed, and none may rerun what it cannot touch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rl4vlm.config.code_digest import stage_sources

FILES = {
    "toy/__init__.py": "",
    "toy/stage.py": "from toy.tools import helper\nfrom .games import registry\n",
    "toy/tools.py": "def helper():\n    from toy.late import thing\n    return thing\n",
    "toy/late.py": "import toy.deep.inner\n",
    "toy/deep/__init__.py": "from toy.deep import beside\n",
    "toy/deep/beside.py": "",
    "toy/deep/inner.py": "import os, json\n",
    "toy/games/__init__.py": "",
    "toy/games/registry.py": 'GAMES = {"chess": "toy.games.chess:Chess", "go": "toy.games.go:Go"}\n',
    "toy/games/chess.py": 'class Chess:\n    entry_point = "toy.board:Board"\n',
    "toy/games/go.py": "import toy.stones\n",
    "toy/board.py": "",
    "toy/stones.py": "",
    "toy/facts.py": 'from importlib.resources import files\nfiles("toy.deep").joinpath("numbers.csv")\n',
    "toy/deep/numbers.csv": "",
    "toy/unused.py": "import toy.stage\n",
}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(module: str, *choices: str) -> set[str]:
    return {path.as_posix() for path in stage_sources(module, choices)}


@pytest.mark.usefixtures("toy")
class TestToyPackage:
    def test_follows_imports_at_any_depth_and_only_those(self) -> None:
        assert names("toy.tools") == {
            "toy/__init__.py",
            "toy/tools.py",
            "toy/late.py",
            "toy/deep/__init__.py",
            "toy/deep/beside.py",
            "toy/deep/inner.py",
        }

    def test_follows_only_the_registry_entries_that_are_looked_up(self) -> None:
        nothing = names("toy.stage")
        assert names("toy.stage", "chess") - nothing == {"toy/games/chess.py", "toy/board.py"}
        assert names("toy.stage", "go") - nothing == {"toy/games/go.py", "toy/stones.py"}

    def test_data_files_count_for_those_who_read_them(self) -> None:
        assert "toy/deep/numbers.csv" in names("toy.facts")
        assert "toy/deep/numbers.csv" not in names("toy.tools")

    def test_nothing_is_imported_to_find_out(self) -> None:
        names("toy.stage", "chess", "go")
        assert not [name for name in sys.modules if name.partition(".")[0] == "toy"]

    def test_a_missing_module_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"toy\.nowhere"):
            stage_sources("toy.nowhere", ())


def test_a_task_of_another_package_brings_its_own_sources(toy: Path) -> None:
    info = toy / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rl4vlm.tasks]\nmychess = toy.games.chess:Chess\n")
    mine, without = (stage_sources("rl4vlm.config.code_digest", choices) for choices in (["mychess"], []))
    assert {path.as_posix() for path in set(mine) - set(without)} == {
        "toy/__init__.py",
        "toy/games/__init__.py",
        "toy/games/chess.py",
        "toy/board.py",
    }


def test_finds_every_module_that_python_really_loads() -> None:
    """Against the truth: what `import` leaves in `sys.modules`."""
    root = Path(__file__).parents[2]
    entry = "rl4vlm.envs.registration"
    # What Python loaded when it started (the hook into gymnasium) no stage computes with.
    code = (
        f"import sys; before = set(sys.modules); import {entry};"
        "print(*[m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'rl4vlm' and n not in before])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout
    found = {path.resolve() for path in stage_sources(entry, ())}
    assert {Path(path).resolve() for path in loaded.split()} <= found

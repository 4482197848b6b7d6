"""Messages if the optional libraries are missing, and no side effects of importing them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from rl4vlm.cli import main
from rl4vlm.envs.alfworld import library
from rl4vlm.envs.alfworld.workers import engine_pool, fork_server
from rl4vlm.envs.registration import make_env
from tests.envs.alfworld.test_games import write_game

ROOT = Path(__file__).parents[3]
MESSAGE = f"ALFWorld needs the package 'alfworld', which is not installed: {library.INSTALL}"


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process without workers, on a machine without the libraries."""
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    monkeypatch.setattr(fork_server.ForkServer, "_current", None)
    monkeypatch.setattr(engine_pool, "_shared", None)


@pytest.mark.usefixtures("without_the_extra")
def test_generating_games_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alfworld-games", "--out", str(tmp_path / "games")]) != 0
    assert MESSAGE in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_the_extra")
def test_beginning_a_game_says_what_to_install(tmp_path: Path) -> None:
    write_game(tmp_path / "train" / "a" / "trial")
    env = make_env("ALFWorld", data=tmp_path)
    with pytest.raises(ValueError, match=re.escape(MESSAGE)):
        env.reset(seed=1)
    env.close()


@pytest.mark.parametrize("missing", ["textworld", "fast_downward"])
def test_each_library_is_asked_for(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(library, "find_spec", lambda package: None if package == missing else object())
    with pytest.raises(ValueError, match=f"needs the package '{missing}', which is not installed"):
        library.require_installed()


def test_a_library_that_cannot_be_imported_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alfworld", None)
    with pytest.raises(ValueError, match=re.escape(MESSAGE)):
        library.load("alfworld")


def test_the_hint_and_the_docs_name_the_extra_and_no_index_that_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda package: None if package == "textworld" else object())
    with pytest.raises(ValueError, match="needs the package 'textworld'") as error:
        library.require_installed()
    told = [str(error.value), (ROOT / "docs" / "alfworld.md").read_text(encoding="utf-8")]
    assert all("pip install -e '.[alfworld]'" in text and "rl4vlm[" not in text for text in told)
    assert re.search(r"^alfworld = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)

"""What is said where the optional libraries are missing."""

import re
from pathlib import Path

import pytest

from rl4vlm.envs.alfworld import library

ROOT = Path(__file__).parents[3]


def test_the_hint_and_the_docs_name_the_extra_and_no_index_that_lacks_it(monkeypatch):
    monkeypatch.setattr(library, "find_spec", lambda package: None if package == "textworld" else object())
    with pytest.raises(ValueError, match="needs the package 'textworld'") as error:
        library.require_installed()
    told = [str(error.value), (ROOT / "docs" / "alfworld.md").read_text(encoding="utf-8")]
    assert all("pip install -e '.[alfworld]'" in text and "rl4vlm[" not in text for text in told)
    assert re.search(r"^alfworld = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)

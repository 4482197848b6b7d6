"""The layout report on a small checkout, with numbers counted by hand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.layout import code_and_comments, explanations, main

MODULE = '''#!/usr/bin/env python
"""A module.

clip_range: not in this module's settings, but explained here.
"""

# Why: a reason.
x = 1  # another reason
y = """two
lines"""  # noqa


class Settings:
    """Settings."""

    clip_range: float = 0.1
    """Bound of the ratio."""
'''


def test_counts_code_without_docstrings_and_comments_without_pragmas() -> None:
    # Code: x, two lines of y, the class and its field.
    assert code_and_comments(MODULE) == (5, 2)


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.py", MODULE, [2, 16]),
        ("a.md", "The `clip_range` bounds it.\nclip_range = 0.1\n", [1]),
        ("a.yaml", "# Bound.\nclip_range: 0.1\n\nb:\n  clip_range: 0.2\n", [2]),
        ("schema.yaml", "clip_range:\n  type: number\n  description: Bound.\n", [1]),
    ],
)
def test_finds_the_lines_that_explain_a_setting(name: str, text: str, lines: list[int]) -> None:
    assert explanations(Path(name), text, "clip_range") == lines


def test_reports_only_files_that_git_tracks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rl4vlm" / "ppo").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "rl4vlm" / "ppo" / "a.py").write_text(MODULE)
    (tmp_path / "tests" / "test_a.py").write_text("x = 1\n")
    (tmp_path / "README.md").write_text("three short words\n")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    (tmp_path / "untracked.py").write_text("x = 1\n" * 400)
    main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "| rl4vlm/ppo | 1 | 17 | 5 | 40.0 | 17 |" in shown
    assert "Python files above 350 lines: none." in shown
    assert "`clip_range` is explained in 2 places: rl4vlm/ppo/a.py:2, rl4vlm/ppo/a.py:16." in shown
    assert "README.md: 3 words, 1 lines." in shown

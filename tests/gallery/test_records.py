"""Reading evaluations and choosing the episodes to show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.core.types import Style
from rl4vlm.gallery.choose import choose
from rl4vlm.results.read import load_recording


def episode(number: int, *, won: bool = False, fallbacks: int = 0) -> dict[str, Any]:
    return {"episode": number, "success": won, "fallbacks": fallbacks}


def test_chooses_as_many_of_each_kind() -> None:
    won = [episode(number, won=True) for number in range(50)]
    lost = [episode(number) for number in range(50, 60)]
    fallback = [episode(number, won=number % 2 == 0, fallbacks=1) for number in range(60, 70)]
    chosen = [each["episode"] for each in choose([*won, *lost, *fallback], 6)]
    assert chosen == [0, 1, 50, 51, 60, 61]


def test_fills_up_with_what_there_is() -> None:
    episodes = [episode(0), *(episode(number, won=True) for number in range(1, 9))]
    assert [each["episode"] for each in choose(episodes, 4)] == [0, 1, 2, 3]
    assert len(choose(episodes, 100)) == 9


def test_reads_what_an_evaluation_wrote(evaluated: list[Path]) -> None:
    found = load_recording(evaluated[2])
    assert (found.name, found.task, found.style) == ("ppo-nocot-NumberLine", "NumberLine", Style.ACTION_ONLY)
    assert found.summary["method"] == "<b>RL4VLM</b>-noCoT"
    assert [each["episode"] for each in found.episodes] == list(range(24))


def edited(evaluated: list[Path], folder: Path) -> Path:
    return Path(shutil.copytree(evaluated[0], folder / "edited"))


@pytest.mark.parametrize("name", ["run.json", "summary.json", "episodes.jsonl"])
def test_names_a_missing_file(evaluated: list[Path], tmp_path: Path, name: str) -> None:
    folder = edited(evaluated, tmp_path)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        load_recording(folder)


def test_names_the_line_that_is_broken(evaluated: list[Path], tmp_path: Path) -> None:
    folder = edited(evaluated, tmp_path)
    file = folder / "episodes.jsonl"
    lines = file.read_text().split("\n")
    file.write_text("\n".join([lines[0], lines[1][:40], *lines[2:]]))
    with pytest.raises(ValueError, match=r"episodes\.jsonl, line 2 is not JSON"):
        load_recording(folder)
    incomplete = json.loads(lines[2])
    del incomplete["steps"][0]["reply"]
    file.write_text("\n".join([*lines[:2], json.dumps(incomplete)]))
    with pytest.raises(ValueError, match=r"line 3 has no 'reply'"):
        load_recording(folder)


def test_an_episode_that_was_changed_is_refused(evaluated: list[Path], tmp_path: Path) -> None:
    folder = edited(evaluated, tmp_path)
    file = folder / "episodes.jsonl"
    file.write_text(file.read_text().replace('"length": ', '"length": 1', 1))
    with pytest.raises(ValueError, match=r"episodes\.jsonl is damaged or was changed"):
        load_recording(folder)


def test_names_an_entry_that_a_record_lacks(evaluated: list[Path], tmp_path: Path) -> None:
    folder = edited(evaluated, tmp_path)
    (folder / "summary.json").write_text("[]")
    with pytest.raises(ValueError, match=r"summary\.json is no JSON object"):
        load_recording(folder)
    (folder / "run.json").write_text('{"settings": {"task": "NumberLine"}}')
    with pytest.raises(ValueError, match=r"run\.json, settings: 'style': Field required"):
        load_recording(folder)

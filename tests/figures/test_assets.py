"""README's images, and that all assets are written together."""

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rl4vlm.core.lock import locked
from rl4vlm.envs.registration import make_env
from rl4vlm.figures.assets import CLOSING, LABEL, MARGIN, OPENING, SHOWN, games_image, readme_assets, with_table
from rl4vlm.results.names import FIGURES, README_TABLE, asset_files
from rl4vlm.results.tables import build_tables
from tests.results.synthetic import make_results, write_json


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    made = make_results(root, tasks=["NumberLine"], episodes=10)
    for folder in made.evaluations:
        write_json(folder / "run.json", {"stage": "evaluation"})
    build_tables(**made.inputs, out=root / "tables", scale="embedded")
    (root / "figures").mkdir()
    for name in FIGURES:
        (root / "figures" / f"{name}.png").write_bytes(name.encode())
    return root


def test_games_image_shows_each_game_as_the_model_sees_it() -> None:
    sheet = np.array(Image.open(io.BytesIO(games_image())))
    for place, (task, options) in enumerate(SHOWN.items()):
        image, _ = make_env(task).reset(options=options)
        x = MARGIN + place * (300 + MARGIN)
        assert np.array_equal(sheet[LABEL : LABEL + 300, x : x + 300], image), task
        assert (sheet[:LABEL, x : x + 300] < 128).any(), f"{task} has no label"


def test_games_image_is_the_same_every_time() -> None:
    assert games_image() == games_image()


def test_assets_are_all_written(results: Path, tmp_path: Path) -> None:
    assets = tmp_path / "docs" / "assets"
    readme_assets(figures=results / "figures", tables=results / "tables", out=assets)
    assert {file for file in (tmp_path / "docs").rglob("*") if file.is_file()} == set(asset_files(assets))
    assert (assets / "training_curves.png").read_bytes() == b"training_curves"


@pytest.mark.parametrize("missing", ["figures/training_curves.png", "tables/main.csv", "tables/lambda.md"])
def test_missing_file_is_named(results: Path, tmp_path: Path, missing: str) -> None:
    (results / missing).unlink()
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        readme_assets(figures=results / "figures", tables=results / "tables", out=tmp_path / "assets")


def test_all_or_nothing_is_written(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs, readme = tmp_path / "docs", tmp_path / "README.md"
    arguments: dict[str, Any] = {"figures": results / "figures", "tables": results / "tables", "out": docs / "assets"}

    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in (readme, *docs.rglob("*")) if file.is_file()}

    readme.write_text("no markers")
    with pytest.raises(ValueError, match=r"README\.md must hold"):
        readme_assets(**arguments, readme=readme)
    assert content() == {readme: b"no markers"}
    readme.write_text(f"{OPENING}{CLOSING}")
    readme_assets(**arguments, readme=readme)
    before = content()
    assert (docs / "assets" / README_TABLE).read_bytes().strip() in before[readme]
    (results / "figures" / "training_curves.png").write_bytes(b"new")
    writes = iter([1, 1, 1, 0])

    def full(file: Path, data: bytes, write: Any = Path.write_bytes) -> int:
        if next(writes):
            return int(write(file, data))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        readme_assets(**arguments, readme=readme)
    assert content() == before
    with locked(docs / "assets" / ".lock"), pytest.raises(ValueError, match=rf"process {os.getpid()} .* is at work"):
        readme_assets(**arguments)


def test_table_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results-table -->\nold\n<!-- /results-table -->\nafter\n")
    for _ in range(2):
        readme.write_text(with_table(readme, "| table |\n"))
        assert readme.read_text() == "before\n<!-- results-table -->\n| table |\n<!-- /results-table -->\nafter\n"


@pytest.mark.parametrize(
    "text",
    [
        "none",
        "<!-- results-table --> only the first",
        "<!-- /results-table --> wrong order <!-- results-table -->",
        "<!-- results-table --><!-- /results-table --><!-- results-table --><!-- /results-table -->",
    ],
)
def test_file_without_one_pair_of_markers_is_refused(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md must hold"):
        with_table(readme, "| table |")

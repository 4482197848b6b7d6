"""README's pictures and table."""

import io

import numpy as np
import pytest
from PIL import Image

from rl4vlm.envs.registration import make_env
from rl4vlm.figures.assets import LABEL, MARGIN, SHOWN, games_image, insert_table, readme_assets


@pytest.fixture
def results(tmp_path):
    for name, content in (("figures/training_curves.png", b"picture"), ("tables/main.md", b"| table |\n")):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_bytes(content)
    return tmp_path


def test_games_image_shows_each_game_as_the_model_sees_it():
    sheet = np.array(Image.open(io.BytesIO(games_image())))
    for place, (task, options) in enumerate(SHOWN.items()):
        image, _ = make_env(task).reset(options=options)
        x = MARGIN + place * (300 + MARGIN)
        assert np.array_equal(sheet[LABEL : LABEL + 300, x : x + 300], image), task
        assert (sheet[:LABEL, x : x + 300] < 128).any(), f"{task} has no label"


def test_games_image_is_the_same_every_time():
    assert games_image() == games_image()


def test_assets_are_copied(results, tmp_path):
    readme_assets(figures=results / "figures", tables=results / "tables", out=tmp_path / "assets")
    assert sorted(file.name for file in (tmp_path / "assets").iterdir()) == [
        "games.png",
        "results.md",
        "training_curves.png",
    ]
    assert (tmp_path / "assets" / "training_curves.png").read_bytes() == b"picture"
    assert (tmp_path / "assets" / "results.md").read_text() == "| table |\n"


def test_missing_figure_is_named(results, tmp_path):
    (results / "figures" / "training_curves.png").unlink()
    with pytest.raises(ValueError, match=r"training_curves\.png is missing"):
        readme_assets(figures=results / "figures", tables=results / "tables", out=tmp_path / "assets")


def test_table_replaces_what_stands_between_the_markers(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results-table -->\nold\n<!-- /results-table -->\nafter\n")
    for _ in range(2):
        insert_table(readme, results / "tables" / "main.md")
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
def test_file_without_one_pair_of_markers_is_refused_and_left_alone(results, tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md must hold"):
        insert_table(readme, results / "tables" / "main.md")
    assert readme.read_text() == text

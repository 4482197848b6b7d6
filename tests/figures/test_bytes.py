"""The files of figures: the same bytes every time, in any process, with a record beside them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rl4vlm.core.files import sha256_of
from rl4vlm.figures.draw import draw
from rl4vlm.figures.style import FigureStyle
from rl4vlm.results.names import FIGURES
from tests.results.synthetic import make_results

STYLE = FigureStyle(dpi=60)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two tasks are enough for files of every kind, and take half the time to draw."""
    return make_results(tmp_path_factory.mktemp("results"), tasks=["NumberLine", "EZPoints"])


@pytest.mark.parametrize("name", FIGURES)
def test_files_are_written_and_the_same_every_time(name, made, tmp_path):
    for place in ("first", "second"):
        draw(name, **made.inputs, out=tmp_path / place / name, scale="embedded", style=STYLE)
    assert (tmp_path / "first" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "first" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for kind in ("pdf", "png"):
        first, second = ((tmp_path / place / f"{name}.{kind}").read_bytes() for place in ("first", "second"))
        assert first == second
        assert b"CreationDate" not in first
    assert len(list((tmp_path / "first").iterdir())) == 3
    record = json.loads((tmp_path / "first" / f"{name}.run.json").read_text())
    assert (record["stage"], record["settings"]["figure"], record["settings"]["style"]["dpi"]) == ("figure", name, 60)
    read = record["inputs"]["ppo-EZPoints-cot-lambda0.5-seed1/episodes.jsonl"]
    assert read["sha256"] == sha256_of(Path(read["path"]))
    assert "EZPoints-cot-lambda0.5-seed1/metrics.jsonl" in record["inputs"]
    assert record["settings"]["base_perceptions"] == dict.fromkeys(made.base_perceptions, "cards/perception.json")
    assert "cards/perception.json" in record["inputs"]


def test_another_process_with_another_matplotlibrc_gives_the_same_bytes_and_loads_no_torch(made, tmp_path):
    draw("training_curves", **made.inputs, out=tmp_path / "here", scale="embedded", style=STYLE)
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\naxes.facecolor: red\n")
    perceptions = {task: str(file) for task, file in made.base_perceptions.items()}
    code = f"""
import sys
from pathlib import Path
from rl4vlm.figures.draw import draw
from rl4vlm.figures.style import FigureStyle
import rl4vlm.results.tables, rl4vlm.figures.assets
draw("training_curves", evaluations=map(Path, {[str(p) for p in made.evaluations]}),
     training_runs=map(Path, {[str(p) for p in made.training_runs]}), base_perceptions={{task: Path(file) for task, file
     in {perceptions}.items()}}, thought_prob_coef={made.thought_prob_coef},
     out=Path({str(tmp_path / "there")!r}), scale="embedded", style=FigureStyle(dpi=60))
assert "torch" not in sys.modules
"""
    surroundings = os.environ | {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "MATPLOTLIBRC": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=surroundings)
    for kind in ("pdf", "png"):
        assert (tmp_path / f"there.{kind}").read_bytes() == (tmp_path / f"here.{kind}").read_bytes()

"""The page in a real browser: opened from the file system, filtered and stepped through."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.gallery.build import build_gallery, gallery_data
from rl4vlm.gallery.replay import replay
from rl4vlm.results.read import load_recording
from tests.gallery.browser import CHROMIUM, Page, browser
from tests.gallery.conftest import HOSTILE

MINUS = "\N{MINUS SIGN}"
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]

SETTINGS = GallerySettings(episodes=9)


@pytest.fixture(scope="module")
def built(evaluated: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gallery")
    return build_gallery(evaluations=evaluated, scale="embedded", out=out, settings=SETTINGS)


@pytest.fixture(scope="module")
def data(evaluated: list[Path]) -> dict[str, Any]:
    return gallery_data([load_recording(folder) for folder in evaluated], "embedded", SETTINGS)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(chromium: Page, built: Path) -> Iterator[Page]:
    """The freshly opened page. After each test, check that it ran no hostile script and loaded nothing else."""
    chromium.problems.clear()
    chromium.loaded.clear()
    chromium.resize(1200, 900)
    chromium.open(built.as_uri())
    yield chromium
    assert chromium.problems == []
    assert chromium.run("window.hacked") is None
    assert [url for url in chromium.loaded if not url.startswith(("data:", "about:", built.as_uri()))] == []


def run_named(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(run for run in data["runs"] if run["name"] == name)


def episodes_shown(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('#episodes button')].map((b) => b.textContent)")


def choose(page: Page, menu: str, value: str) -> None:
    page.run(
        f"(() => {{ const menu = document.getElementById('{menu}'); menu.value = {json.dumps(value)};"
        " menu.dispatchEvent(new Event('change')); })()"
    )


def pixels(page: Page) -> np.ndarray:
    """The canvas, (H, W, 3) uint8, after the page has finished drawing it."""
    address = page.run(
        "new Promise((done) => { const c = document.getElementById('image'); const look = () =>"
        " c.dataset.shown === c.dataset.wanted ? done(c.toDataURL()) : setTimeout(look, 10); look(); })"
    )
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as drawn:
        return np.asarray(drawn.convert("RGB"))


def test_opens_on_the_first_trained_policy(page: Page, data: dict[str, Any]) -> None:
    first = run_named(data, "ppo-cot-NumberLine")["episodes"][0]
    assert page.run("document.getElementById('run').value") == "ppo-cot-NumberLine"
    assert page.text("#title") == f"Episode {first['number']}, step 1 of {len(first['steps'])}"
    assert page.text("#prompt") == data["prompts"][first["steps"][0]["prompt"]]
    assert "24 episodes won" in page.text("#totals")
    assert " games" not in page.text("#totals")


def test_names_the_games_of_tasks_whose_games_are_data(page: Page, data: dict[str, Any], built: Path) -> None:
    page.open(f"{built.as_uri()}#run={data['runs'][-1]['name']}")
    assert "official games, drawn pictures, <b>seen</b>" in page.text("#totals")


def test_filters_by_click_and_by_key(page: Page, data: dict[str, Any]) -> None:
    episodes = run_named(data, "ppo-cot-NumberLine")["episodes"]
    kinds = {
        "won": [episode for episode in episodes if episode["won"]],
        "lost": [episode for episode in episodes if not episode["won"]],
        "fallback": [episode for episode in episodes if episode["fallbacks"]],
    }
    for kind, kept in kinds.items():
        assert 0 < len(kept) < len(episodes)
        page.click(f"[data-filter={kind}]")
        clicked = episodes_shown(page)
        assert [int(text.split()[1]) for text in clicked] == [episode["number"] for episode in kept]
        assert page.text(f"[data-filter={kind}]") == f"{kind.capitalize()} {len(kept)}"
        page.press("a")
        assert len(episodes_shown(page)) == len(episodes)
        page.press(kind[0])
        assert episodes_shown(page) == clicked


def test_says_if_no_episode_is_of_a_kind(page: Page) -> None:
    choose(page, "run", "solver-NumberLine")
    page.press("f")
    assert episodes_shown(page) == []
    assert page.run("document.getElementById('shown').hidden") is True
    assert page.run("document.getElementById('empty').hidden") is False
    page.press("ArrowRight")
    page.press("w")
    assert page.run("document.getElementById('shown').hidden") is False


def test_steps_through_an_episode_to_its_end(page: Page, data: dict[str, Any]) -> None:
    episodes = run_named(data, "ppo-cot-NumberLine")["episodes"]
    steps = episodes[0]["steps"]
    for number, step in enumerate(steps, start=1):
        assert page.text("#title").endswith(f"step {number} of {len(steps)}")
        assert page.text("#thoughts") == step["thoughts"]
        assert page.text("#key") == step["key"]
        assert page.run("document.querySelectorAll('#reply *').length") == 2
        assert page.text("#facts").startswith(("Random action" if step["fallback"] else "Action") + step["action"])
        # What rounds to zero has no minus sign.
        logprob = f"{round(step['numbers']['logprob_thoughts'], 2) or 0.0:.2f}"
        assert page.text("#thoughts-number") == f"log p {logprob.replace('-', MINUS)}"
        page.press("ArrowRight")
    assert page.text("#title").endswith("the end")
    assert ("Outcomewon" in page.text("#facts")) == episodes[0]["won"]
    page.press("ArrowRight")
    assert page.text("#title").endswith("the end")
    page.press("Home")
    assert "step 1 of" in page.text("#title")
    page.click("#next")
    assert "step 2 of" in page.text("#title")
    page.press("ArrowDown")
    assert page.text("#title").startswith(f"Episode {episodes[1]['number']}, step 1")
    page.press("ArrowUp")
    page.press("End")
    assert page.text("#title") == f"Episode {episodes[0]['number']}, the end"


def test_shows_exactly_the_image_that_the_player_saw(page: Page, evaluated: list[Path]) -> None:
    evaluation = load_recording(evaluated[3])
    (played,) = replay(evaluation, evaluation.episodes[:1])
    choose(page, "task", "EZPoints")
    choose(page, "run", evaluation.name)
    for step in played.steps:
        np.testing.assert_array_equal(pixels(page), step.request.image)
        page.press("ArrowRight")
    np.testing.assert_array_equal(pixels(page), played.last_image)


def test_hostile_text_stays_text(page: Page, data: dict[str, Any]) -> None:
    seen = set()
    for run in data["runs"]:
        choose(page, "task", run["task"])
        choose(page, "run", run["name"])
        page.run("document.querySelector('#episodes button').click()")
        for _ in run["episodes"]:
            for _ in range(4):
                reply = page.text("#reply")
                seen |= {text for text in HOSTILE if text in reply}
                page.press("ArrowRight")
            page.press("ArrowDown")
    assert seen == set(HOSTILE)
    assert page.run("document.querySelectorAll('img, iframe, b, textarea').length") == 0
    assert page.run("document.scripts.length") == 2
    assert "<b>RL4VLM</b>-noCoT" in page.text("#run")


def test_the_security_policy_stops_injected_scripts(page: Page) -> None:
    page.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 4\"><b onclick=\"\">')"
    )
    page.run("new Promise((done) => setTimeout(done, 200))")
    assert page.run("window.hacked") is None
    assert page.problems
    page.problems.clear()
    page.loaded.clear()


def test_an_address_names_a_step(page: Page, built: Path, data: dict[str, Any]) -> None:
    choose(page, "task", "EZPoints")
    page.press("l")
    page.press("ArrowDown")
    page.press("ArrowRight")
    title = page.text("#title")
    address = page.run("new Promise((done) => setTimeout(() => done(location.href), 400))")
    page.open(address)
    assert page.text("#title") == title
    assert page.run("document.getElementById('task').value") == "EZPoints"
    page.open(f"{built.as_uri()}#run=nothing&show=constructor&step=x")
    assert page.run("document.getElementById('run').value") == "ppo-cot-NumberLine"


def test_another_method_shows_the_same_episode(page: Page, data: dict[str, Any]) -> None:
    first, other = (run_named(data, f"ppo-{style}-NumberLine")["episodes"] for style in ("cot", "nocot"))
    shared = next(e["number"] for e in first[1:] if e["seed"] in {o["seed"] for o in other})
    while not page.text("#title").startswith(f"Episode {shared},"):
        page.press("ArrowDown")
    page.press("m")
    assert page.run("document.getElementById('run').value") == "ppo-nocot-NumberLine"
    assert page.text("#title").startswith(f"Episode {shared},")


def test_fits_a_phone(page: Page, tmp_path: Path) -> None:
    page.resize(360, 740, phone=True)
    assert page.run("document.documentElement.scrollWidth") <= 360
    box = page.run(
        "(() => { const b = document.getElementById('next').getBoundingClientRect(); return [b.bottom, b.height]; })()"
    )
    assert box[0] <= 740
    assert box[1] >= 44
    page.click("#next")
    assert "step 2 of" in page.text("#title")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 390)])
def test_is_drawn_in_both_colour_schemes(page: Page, tmp_path: Path, scheme: str, width: int) -> None:
    """Set GALLERY_SCREENSHOTS=DIR to keep the screenshots."""
    page.resize(width, 844, phone=width < 500)
    page.prefer(scheme)
    pixels(page)
    folder = Path(os.environ.get("GALLERY_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"gallery-{scheme}-{width}.png"
    page.screenshot(file)
    page.prefer("light")
    with Image.open(file) as taken:
        shown = np.asarray(taken.convert("L"))
    assert (shown[:5].mean() > 128) == (scheme == "light")
    assert len(np.unique(shown)) > 50

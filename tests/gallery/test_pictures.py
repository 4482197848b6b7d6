"""The table of pictures: nothing twice, nothing lost."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from rl4vlm.envs.registration import make_env
from rl4vlm.gallery.pictures import PictureTable


def shown(table: PictureTable, number: int) -> np.ndarray:
    """A picture as the page puts it together."""
    entry = table.entries[number]
    part = decoded(entry)
    if "on" not in entry:
        return part
    whole = decoded(table.entries[entry["on"]]).copy()
    x, y = entry["at"]
    whole[y : y + part.shape[0], x : x + part.shape[1]] = part
    return whole


def decoded(entry: dict[str, Any]) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(entry["data"]))) as picture:
        assert list(picture.size) == entry["size"]
        return np.asarray(picture.convert("RGB"))


def game(cards: list[str], *actions: str) -> list[np.ndarray]:
    env = make_env("EZPoints")
    pictures = [env.reset(seed=0, options={"cards": cards})[0]]
    pictures += [env.step(env.view().actions.index(action))[0] for action in actions]
    return pictures


def test_every_picture_comes_back_to_the_pixel() -> None:
    pictures = [*game(["HK", "D2"], "10", "+", "2", "="), *game(["SA", "CQ"], "1")]
    table = PictureTable()
    numbers = [table.add(picture, pictures[0]) for picture in pictures]
    for number, picture in zip(numbers, pictures, strict=True):
        np.testing.assert_array_equal(shown(table, number), picture)


def test_a_picture_is_stored_once() -> None:
    first, second, *_ = game(["HK", "D2"], "10")
    table = PictureTable()
    assert [table.add(picture, first) for picture in (first, second, first.copy(), second.copy())] == [0, 1, 0, 1]
    assert len(table.entries) == 2


def test_a_change_of_the_formula_is_a_small_patch() -> None:
    first, second, *_ = game(["HK", "D2"], "10")
    table = PictureTable()
    table.add(first)
    entry = table.entries[table.add(second, first)]
    assert entry["on"] == 0
    assert len(entry["data"]) < len(table.entries[0]["data"]) / 4


def test_what_has_little_in_common_is_stored_whole() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    table = PictureTable()
    table.add(noise)
    for other in (noise[::-1], noise[:20]):
        number = table.add(other, noise)
        assert "on" not in table.entries[number]
        np.testing.assert_array_equal(shown(table, number), other)

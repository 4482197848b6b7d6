"""Images are stored once and decode without loss."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from rl4vlm.envs.registration import make_env
from rl4vlm.gallery.images import ImageTable


def shown(table: ImageTable, number: int) -> np.ndarray:
    """An image as the page draws it: a whole image, with its patch if it has one."""
    entry = table.entries[number]
    part = decoded(entry)
    if "on" not in entry:
        return part
    whole = decoded(table.entries[entry["on"]]).copy()
    x, y = entry["at"]
    whole[y : y + part.shape[0], x : x + part.shape[1]] = part
    return whole


def decoded(entry: dict[str, Any]) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(entry["data"]))) as image:
        assert list(image.size) == entry["size"]
        return np.asarray(image.convert("RGB"))


def game(cards: list[str], *actions: str) -> list[np.ndarray]:
    env = make_env("EZPoints")
    images = [env.reset(seed=0, options={"cards": cards})[0]]
    images += [env.step(env.view().actions.index(action))[0] for action in actions]
    return images


def test_every_image_decodes_exactly() -> None:
    images = [*game(["HK", "D2"], "10", "+", "2", "="), *game(["SA", "CQ"], "1")]
    table = ImageTable()
    numbers = [table.add(image, images[0]) for image in images]
    for number, image in zip(numbers, images, strict=True):
        np.testing.assert_array_equal(shown(table, number), image)


def test_an_image_is_stored_once() -> None:
    first, second, *_ = game(["HK", "D2"], "10")
    table = ImageTable()
    assert [table.add(image, first) for image in (first, second, first.copy(), second.copy())] == [0, 1, 0, 1]
    assert len(table.entries) == 2


def test_a_change_of_the_formula_is_a_small_patch() -> None:
    first, second, *_ = game(["HK", "D2"], "10")
    table = ImageTable()
    table.add(first)
    entry = table.entries[table.add(second, first)]
    assert entry["on"] == 0
    assert len(entry["data"]) < len(table.entries[0]["data"]) / 4


def test_an_unlike_image_is_stored_whole() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    table = ImageTable()
    table.add(noise)
    for other in (noise[::-1], noise[:20]):
        number = table.add(other, noise)
        assert "on" not in table.entries[number]
        np.testing.assert_array_equal(shown(table, number), other)

"""The layout of the images, the default cards and folders of card images."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rl4vlm.envs.card_art import font
from rl4vlm.envs.registration import make_env
from rl4vlm.envs.render import draw
from rl4vlm.tasks.base import CardImage, Scene
from rl4vlm.tasks.cards import BACK, DECK

GREEN = (0x35, 0x65, 0x4D)


def lettered(background, lines):
    """An image with lines of text (x, y, text, size, bold) that Pillow writes without our cache."""
    image = Image.new("RGB", (300, 300), background)
    pen = ImageDraw.Draw(image)
    for x, y, text, size, bold in lines:
        colour = "black" if background == "white" else "white"
        pen.text((x, y), text, fill=colour, font=font(size, bold))
    return np.asarray(image)


@pytest.fixture
def art(tmp_path):
    """A folder of card images in which every card has its own colour."""
    colours = {}
    for i, card in enumerate([*DECK, "card"]):
        colours[card] = (250 - i, 10 + 3 * i, 60 + i)
        Image.new("RGB", (50, 70), colours[card]).save(tmp_path / f"{card}.png")
    return tmp_path, colours


def test_number_line_layout():
    image, _ = make_env("NumberLine").reset(options={"current": 2, "target": 5})
    lines = [(30, 60, "Target: 5", 36, True), (30, 180, "Current: 2", 36, True)]
    assert np.array_equal(image, lettered("white", lines))


@pytest.mark.parametrize(
    ("name", "options", "actions", "cards", "lines"),
    [
        (
            "EZPoints",
            {"cards": ["HK", "D2"]},
            ["9", "10", "+"],
            [(5, 55, 135, 189, "HK"), (153, 55, 135, 189, "D2")],
            [(10, 258, "Formula:   10 +", 20, False)],
        ),
        (
            "Points24",
            {"cards": ["HK", "D2", "CA", "ST"]},
            ["2", "*", "("],
            [(5, 103, 67, 93, "HK"), (78, 103, 67, 93, "D2"), (152, 103, 67, 93, "CA"), (226, 103, 67, 93, "ST")],
            [(10, 210, "Formula:", 16, False), (10, 240, "2 * (", 16, False)],
        ),
        (
            "Blackjack",
            {"player": ["H2", "D2", "C2", "S2", "HA", "DA"], "dealer": ["CK", "S9"]},
            [],
            [
                (5, 25, 70, 98, "CK"),
                (78, 25, 70, 98, "card"),
                (5, 150, 70, 98, "H2"),
                (79, 150, 70, 98, "D2"),
                (153, 150, 70, 98, "C2"),
                (227, 150, 70, 98, "S2"),
                (5, 252, 70, 48, "DA"),  # the fifth lies beyond the edge, the sixth begins a row
            ],
            [(5, 5, "Dealer", 16, True), (5, 130, "Player", 16, True)],
        ),
    ],
)
def test_card_layouts(art, name, options, actions, cards, lines):
    folder, colours = art
    env = make_env(name, card_art=folder)
    image, _ = env.reset(options=options)
    for action in actions:
        image = env.step(env.view().actions.index(action))[0]
    expected = lettered(GREEN, lines)
    expected = expected.copy()
    for x, y, width, height, card in cards:
        expected[y : y + height, x : x + width] = colours[card]
    assert np.array_equal(image, expected)


def test_art_is_resized_by_pillows_default_filter_and_pasted_without_a_mask(tmp_path):
    rng = np.random.default_rng(0)
    original = Image.fromarray(rng.integers(0, 256, (140, 100, 4), np.uint8), "RGBA")
    original.save(tmp_path / "HK.png")
    image = draw(Scene("#35654d", (CardImage(5, 55, 135, 189, "HK"),)), str(tmp_path))
    expected = np.asarray(original.resize((135, 189)).convert("RGB"))
    assert np.array_equal(image[55:244, 5:140], expected)


def test_a_missing_image_is_named(tmp_path):
    env = make_env("EZPoints", card_art=tmp_path)
    with pytest.raises(ValueError, match=r"HK\.png"):
        env.reset(options={"cards": ["HK", "D2"]})


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"], ids=["another format", "cut off"]
)
def test_an_image_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "HK.png").write_bytes(content)
    env = make_env("EZPoints", card_art=tmp_path)
    with pytest.raises(ValueError, match=r"card_art: the image .*HK\.png.* cannot be read"):
        env.reset(options={"cards": ["HK", "HK"]})


def test_all_cards_can_be_told_apart_at_half_the_size_of_points24():
    small = {}
    for card in (*DECK, BACK):
        image = draw(Scene("#35654d", (CardImage(5, 103, 67, 93, card),)))
        small[card] = np.asarray(Image.fromarray(image).resize((150, 150)), dtype=float)[51:99, 2:37]
    names = list(small)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            clearly = (np.abs(small[one] - small[other]).max(axis=-1) > 100).sum()
            assert clearly >= 25, (one, other, clearly)


def test_ranks_are_large():
    """The rank fills most of a card's upper part: it is at least 40 pixels high at the size used in Points24."""
    for card in DECK:
        image = draw(Scene("#35654d", (CardImage(0, 0, 67, 93, card),)))[4:56, 6:61]
        rows = np.flatnonzero((image.min(axis=-1) < 60).any(axis=1))
        assert rows[-1] - rows[0] >= 40, card

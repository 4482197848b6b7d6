"""Draw an ALFWorld situation as an image of 300 by 300 pixels: the agent's place above, room map and hand below.

It is drawn by this project from what `observation.seen` lets through, and is not a frame of AI2-THOR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from rl4vlm.envs.alfworld.glyphs import glyph
from rl4vlm.envs.alfworld.observation import Receptacle, Room, Seen, Spot, Thing
from rl4vlm.envs.card_art import font
from rl4vlm.envs.render import SIDE

Box = tuple[int, int, int, int]

VIEW: Box = (0, 0, 300, 176)
MAP: Box = (0, 178, 176, 300)
HAND: Box = (178, 178, 300, 300)
PAPER, INK, FRAME, FLOOR, HERE = "#ffffff", "#111111", "#777777", "#f1ece2", "#e63946"
MARK_COLOURS = {"hot": "#d62828", "cold": "#2f6fd0", "clean": "#2a9d8f", "on": "#b8860b", "sliced": "#8e5bd0"}
MARK_LETTERS = {"hot": "H", "cold": "C", "clean": "W", "on": "ON", "sliced": "S"}
"""Marks of states where the word does not fit. `W` is for washed, since `C` is for cold."""
_NEAR = sorted(
    ((dx, dy) for dx in range(-60, 61, 4) for dy in range(-60, 61, 4)), key=lambda d: (d[0] ** 2 + d[1] ** 2, d)
)
"""Offsets of up to 60 pixels, the smallest first."""

IMAGES_CACHED = 32
"""How many images are cached, and how many backgrounds. Each takes 360 kB, and most are never asked for again."""


def draw_seen(view: Seen) -> np.ndarray:
    """The image of what the agent sees: a new array, (300, 300, 3) uint8."""
    return np.array(_image(view))


@lru_cache(maxsize=IMAGES_CACHED)
def _image(view: Seen) -> Image.Image:
    image = _background(view.room).copy()  # the background is cached
    _draw_view(image, view.receptacles)
    _draw_agent(image, view)
    _draw_hand(image, view.held)
    return image


@lru_cache(maxsize=IMAGES_CACHED)
def _background(room: Room) -> Image.Image:
    """What does not change during a game: the frames, and the map with every receptacle."""
    image = Image.new("RGB", (SIDE, SIDE), PAPER)
    pen = ImageDraw.Draw(image)
    for left, top, right, bottom in (VIEW, MAP, HAND):
        pen.rectangle((left, top, right - 1, bottom - 1), outline=FRAME)
    pen.rectangle((MAP[0] + 3, MAP[1] + 3, MAP[2] - 4, MAP[3] - 4), fill=FLOOR)
    for name, (x, y) in _map_places(room).items():
        _paste_glyph(image, _class_of(name), 14, x - 7, y - 7)
    return image


# --- what is at hand --------------------------------------------------------------------------------------------------


def _draw_view(image: Image.Image, receptacles: Sequence[Receptacle]) -> None:
    """One row of cells per receptacle: its own drawing, then its contents. Long rows continue below."""
    left, top, right, _ = VIEW
    if not receptacles:
        _text(image, "in the middle of the room", (left + 2, top + 60, right - 2, top + 84), 17)
        _text(image, "(nothing at hand)", (left + 2, top + 88, right - 2, top + 108), 13)
        return
    columns, height = _cells(receptacles)
    width = (right - left - 4) // columns
    y = top + 2
    for number, receptacle in enumerate(receptacles):
        if number:
            ImageDraw.Draw(image).line((left + 2, y, right - 3, y), fill=FRAME)
        _draw_receptacle(image, receptacle, (left + 2, y, left + 2 + width, y + height))
        if not receptacle.things:  # say why the row is empty: closed, or nothing inside
            words = "closed" if receptacle.is_open is False else "empty"
            _text(image, words, (left + 8 + width, y + height // 2 - 9, left + 90 + width, y + height // 2 + 9), 13)
        for place, thing in enumerate(receptacle.things):
            row, column = divmod(place, columns - 1)
            x, cell_top = left + 2 + (column + 1) * width, y + row * height
            _draw_thing(image, thing, (x, cell_top, x + width, cell_top + height))
        y += height * _rows(receptacle, columns)


def _cells(receptacles: Sequence[Receptacle]) -> tuple[int, int]:
    """(columns, cell height in pixels) of the largest cells with which all rows fit."""
    free = VIEW[3] - VIEW[1] - 4
    for columns in range(5, 12):
        rows = sum(_rows(receptacle, columns) for receptacle in receptacles)
        height = min(free // rows, 58)
        # Enough columns once cells are about as tall as wide: drawings are square, so narrower cells only shrink them.
        if height * columns >= 0.8 * (VIEW[2] - VIEW[0] - 4) or columns == 11:
            return columns, height
    raise AssertionError("unreachable")


def _rows(receptacle: Receptacle, columns: int) -> int:
    return max(1, -(-len(receptacle.things) // (columns - 1)))


def _draw_receptacle(image: Image.Image, receptacle: Receptacle, cell: Box) -> None:
    left, top, right, bottom = cell
    pen = ImageDraw.Draw(image)
    pen.rectangle((left + 1, top + 1, right - 2, bottom - 1), fill="#e9eef2", outline=INK)
    _draw_named(image, receptacle.name, (), cell)
    if receptacle.is_open is not None:
        word, colour = ("OPEN", "#2d6a2d") if receptacle.is_open else ("SHUT", HERE)
        _tag(image, word, colour, left + 2, top + 2)


def _draw_thing(image: Image.Image, thing: Thing, cell: Box) -> None:
    _draw_named(image, thing.name, thing.marks, cell)
    x = cell[0] + 1
    for mark in thing.marks:
        x += _tag(image, MARK_LETTERS[mark], MARK_COLOURS[mark], x, cell[1] + 1) + 1


def _draw_named(image: Image.Image, name: str, marks: Sequence[str], cell: Box) -> None:
    """A cell: the drawing, its number at the upper right, its class below."""
    left, top, right, bottom = cell
    label = 10
    side = min(right - left - 4, bottom - top - label - 3)
    class_name, number = _class_of(name), name.rpartition(" ")[2]
    _paste_glyph(image, class_name, side, (left + right - side) // 2, top + 2, lit="on" in marks)
    _text(image, class_name, (left + 1, bottom - label - 1, right - 1, bottom - 1), 10, narrowest=0.62)
    mask = _letters(number, 12, True)
    _paste_haloed(image, mask, (right - mask.width - 2, top + 1))


# --- the map ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _map_places(room: Room) -> dict[str, tuple[int, int]]:
    """The position in the image of each receptacle, in pixels. Receptacles that would overlap are moved apart."""
    to_pixels = _scale(room)
    taken: list[tuple[int, int]] = []
    places = {}
    for name, x, z in room.receptacles:
        places[name] = _free_near(to_pixels(x, z), taken)
        taken.append(places[name])
    return places


@lru_cache(maxsize=256)
def _scale(room: Room) -> Callable[[float, float], tuple[int, int]]:
    """A function from metres (x, z) to pixels (x, y). North is up, and both axes have the same scale."""
    spots = [spot for _, spot in room.spots]
    xs = [x for _, x, _ in room.receptacles] + [spot.x for spot in spots] or [0.0]
    zs = [z for _, _, z in room.receptacles] + [spot.z for spot in spots] or [0.0]
    margin = 12
    width, height = MAP[2] - MAP[0] - 2 * margin, MAP[3] - MAP[1] - 2 * margin
    # At least 1 m in each direction: if all places lie in a line, one extent is zero.
    scale = min(width / max(max(xs) - min(xs), 1.0), height / max(max(zs) - min(zs), 1.0))
    middle_x, middle_z = (min(xs) + max(xs)) / 2, (min(zs) + max(zs)) / 2

    def to_pixels(x: float, z: float) -> tuple[int, int]:
        across = (MAP[0] + MAP[2]) / 2 + (x - middle_x) * scale
        down = (MAP[1] + MAP[3]) / 2 - (z - middle_z) * scale
        return round(across), round(down)

    return to_pixels


def _free_near(wanted: tuple[int, int], taken: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The free position nearest to the wanted one."""
    for dx, dy in _NEAR:
        x, y = wanted[0] + dx, wanted[1] + dy
        inside = MAP[0] + 10 <= x <= MAP[2] - 11 and MAP[1] + 10 <= y <= MAP[3] - 11
        # Drawings of 14 pixels stay readable with 12 pixels between their centres.
        if inside and all(max(abs(x - other[0]), abs(y - other[1])) >= 12 for other in taken):
            return x, y
    return wanted  # the map is full: overlap rather than leave a receptacle out


def _draw_agent(image: Image.Image, view: Seen) -> None:
    """Frame the receptacles at the agent's place on the map, and draw an arrow where it stands."""
    pen = ImageDraw.Draw(image)
    places = _map_places(view.room)
    for receptacle in view.receptacles:
        if receptacle.name in places:
            x, y = places[receptacle.name]
            pen.rectangle((x - 8, y - 8, x + 8, y + 8), outline=HERE, width=2)
    spot = dict(view.room.spots).get(view.location)
    if spot is not None:
        _draw_arrow(pen, _scale(view.room)(spot.x, spot.z), spot)


def _draw_arrow(pen: ImageDraw.ImageDraw, at: tuple[int, int], spot: Spot) -> None:
    outline = [(0, -9), (6, 7), (0, 3), (-6, 7)]
    for _ in range(spot.turn):  # one quarter turn clockwise each
        outline = [(-y, x) for x, y in outline]
    pen.polygon([(at[0] + x, at[1] + y) for x, y in outline], fill=HERE, outline=PAPER)


# --- the hand ---------------------------------------------------------------------------------------------------------


def _draw_hand(image: Image.Image, held: Thing | None) -> None:
    left, top, right, _ = HAND
    if held is None:
        _text(image, "in hand:", (left + 4, top + 3, right - 4, top + 19), 12)
        _text(image, "nothing", (left + 4, top + 50, right - 4, top + 70), 15)
        return
    _text(image, "in hand:", (left + 4, top + 3, right - 4, top + 19), 12)
    _paste_glyph(image, _class_of(held.name), 64, (left + right) // 2 - 32, top + 20, lit="on" in held.marks)
    _text(image, held.name, (left + 3, top + 86, right - 3, top + 102), 14, narrowest=0.7)
    x = left + 4
    for mark in held.marks:
        x += _tag(image, mark, MARK_COLOURS[mark], x, top + 105, size=11) + 3


# --- letters and drawings ---------------------------------------------------------------------------------------------


def _class_of(name: str) -> str:
    return name.rpartition(" ")[0] or name


def _paste_glyph(image: Image.Image, class_name: str, size: int, x: int, y: int, lit: bool = False) -> None:
    drawing = glyph(class_name, size, lit)
    image.paste(drawing, (x, y), drawing)


@lru_cache(maxsize=2048)
def _letters(text: str, size: int, bold: bool, width: int | None = None) -> Image.Image:
    """A line of text as a mask, squeezed to `width` pixels if that is given."""
    left, top, right, bottom = map(int, font(size, bold).getbbox(text))
    mask = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font(size, bold))
    return mask if width is None else mask.resize((width, mask.height))


def _text(image: Image.Image, text: str, box: Box, size: int, narrowest: float = 0.5) -> None:
    """Write a line of text in the middle of a box. It is squeezed to the box, or cut off if that is too narrow."""
    width = box[2] - box[0]
    while len(text) > 1 and _letters(text, size, False).width * narrowest > width:
        text = text[:-1]
    mask = _letters(text, size, False)
    if mask.width > width:
        mask = _letters(text, size, False, width)
    # Align baselines: a text with descenders must not sit higher than one without.
    base = box[1] + (box[3] - box[1] + font(size, False).getbbox("x")[3] - font(size, False).getbbox("l")[1]) // 2
    offset = font(size, False).getbbox("x")[3] - font(size, False).getbbox(text)[1]
    image.paste(INK, ((box[0] + box[2] - mask.width) // 2, int(base - offset)), mask)


def _paste_haloed(image: Image.Image, mask: Image.Image, at: tuple[int, int]) -> None:
    """Dark letters with a white outline, readable on any drawing."""
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1)):
        image.paste(PAPER, (at[0] + dx, at[1] + dy), mask)
    image.paste(INK, at, mask)


def _tag(image: Image.Image, text: str, colour: str, x: int, y: int, size: int = 8) -> int:
    """White letters on a coloured box with its corner at (x, y). Returns the width of the box."""
    mask = _letters(text, size, True)
    ImageDraw.Draw(image).rectangle((x, y, x + mask.width + 3, y + mask.height + 3), fill=colour)
    image.paste(PAPER, (x + 2, y + 2), mask)
    return mask.width + 4

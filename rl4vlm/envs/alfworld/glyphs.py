"""Small drawings of ALFWorld's classes of objects and receptacles, one per class, made for this project.

A drawing is a list of strokes on a field of 32 by 32; later strokes cover earlier ones. A stroke is a letter,
coordinates and a colour of `COLOURS`: `r`ectangle and `o`val (left top right bottom), `p`olygon (x y ...), `c`hord
(box, first and last angle), `l`ine (x y ...) and `a`rc (box, first and last angle). Both lines end with their width.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

from PIL import Image, ImageDraw

from rl4vlm.envs.card_art import font

FIELD = 32
_SCALE = 4
"""Drawings are made at four times the size and scaled down, which smooths the edges."""
_INK = "#2b2b2b"

COLOURS = {
    "red": "#d62828",
    "pink": "#f49ac1",
    "orange": "#f3722c",
    "yellow": "#ffd23f",
    "cream": "#fff3d6",
    "tan": "#d9a566",
    "brown": "#8a5a2b",
    "leaf": "#a4d65e",
    "green": "#3a9d3a",
    "teal": "#2a9d8f",
    "sky": "#a8dcf0",
    "blue": "#2f6fd0",
    "violet": "#8e5bd0",
    "white": "#ffffff",
    "silver": "#c3c9cf",
    "grey": "#7d858c",
    "black": "#22252a",
    # The shade of a lamp, which `glyph` colours if the lamp is on.
    "lamp": "#b4b4b4",
}
_LIT = "#ffe600"

DRAWINGS: dict[str, str] = {
    # Objects that can be carried.
    "alarmclock": "o 4 3 12 11 red; o 20 3 28 11 red; o 5 7 27 29 white; l 16 18 16 10 black 2; l 16 18 22 21 black 2",
    "apple": "o 4 9 18 29 red; o 14 9 28 29 red; o 8 10 24 29 red; l 16 11 18 3 brown 3; p 18 7 26 2 25 9 green",
    "baseballbat": "p 5 25 9 29 29 9 29 4 25 3 tan; o 2 25 9 31 brown",
    "basketball": "o 3 3 29 29 orange; l 3 16 29 16 black 2; l 16 3 16 29 black 2; a -8 5 10 27 300 60 black 2; "
    "a 22 5 40 27 120 240 black 2",
    "book": "p 2 7 16 10 16 29 2 26 blue; p 30 7 16 10 16 29 30 26 blue; p 4 4 16 8 16 26 4 23 cream; "
    "p 28 4 16 8 16 26 28 23 cream",
    "boots": "p 8 3 18 3 18 19 28 22 28 29 8 29 brown; r 8 25 28 29 black",
    "bowl": "c 2 -6 30 28 0 180 teal; r 11 26 21 30 teal; o 2 8 30 14 sky",
    "box": "p 3 12 16 17 16 30 3 25 tan; p 29 12 16 17 16 30 29 25 brown; p 3 12 16 7 29 12 16 17 cream",
    "bread": "r 3 14 29 28 tan; o 2 6 30 20 brown; l 9 9 12 14 cream 2; l 16 8 19 13 cream 2; l 23 9 25 14 cream 2",
    "butterknife": "l 4 28 14 18 brown 5; p 13 16 25 4 28 4 28 8 17 20 silver",
    "candle": "r 11 14 21 30 cream; l 16 14 16 10 black 2; p 16 1 20 8 16 12 12 8 orange",
    "cd": "o 2 2 30 30 silver; p 16 16 24 4 29 11 pink; p 16 16 8 28 3 21 sky; o 12 12 20 20 white",
    "cellphone": "r 8 2 24 30 black; r 10 5 22 23 sky; o 14 25 18 29 white",
    "cloth": "p 3 9 10 5 18 9 29 4 27 25 18 29 10 25 5 28 teal; l 8 12 24 10 white 2; l 8 20 24 18 white 2",
    "creditcard": "r 2 7 30 25 violet; r 2 10 30 15 black; r 5 18 12 22 yellow",
    "cup": "p 7 4 25 4 21 29 11 29 sky; r 7 4 25 8 blue",
    "desklamp": "r 7 27 25 30 grey; l 16 28 10 17 18 9 grey 3; p 12 4 22 2 30 13 18 17 lamp",
    "dishsponge": "r 2 9 30 19 yellow; r 2 18 30 25 green; o 6 11 10 15 orange; o 14 12 18 16 orange; "
    "o 22 11 26 15 orange",
    "egg": "o 7 3 25 29 cream",
    "floorlamp": "l 16 30 16 11 grey 3; r 9 28 23 31 grey; p 5 13 27 13 21 1 11 1 lamp",
    "footstool": "r 4 10 28 17 pink; l 7 17 5 28 brown 3; l 25 17 27 28 brown 3",
    "fork": "l 16 30 16 13 grey 4; l 9 3 9 13 23 13 23 3 grey 3; l 16 3 16 13 grey 3",
    "glassbottle": "r 13 1 19 11 leaf; p 13 10 19 10 23 15 23 30 9 30 9 15 leaf; l 13 17 13 26 white 2",
    "handtowel": "r 8 4 24 28 pink; l 8 22 24 22 white 3; l 3 4 29 4 grey 2",
    "houseplant": "p 9 20 23 20 20 30 12 30 orange; o 4 6 15 19 green; o 17 6 28 19 green; o 10 2 22 20 leaf",
    "kettle": "o 4 12 25 30 silver; p 22 17 30 8 32 12 25 24 silver; a 7 2 22 22 180 360 black 3; o 12 10 17 14 black",
    "keychain": "a 2 2 17 17 0 360 yellow 4; l 15 15 29 29 yellow 4; l 25 25 29 21 yellow 3; l 20 20 24 16 yellow 3",
    "knife": "p 11 21 26 1 30 8 16 25 silver; l 3 29 13 21 black 5",
    "ladle": "l 26 2 14 19 grey 4; c 2 8 20 30 -20 200 grey; o 3 15 19 22 silver",
    "laptop": "r 6 4 26 21 grey; r 8 6 24 19 sky; p 3 21 29 21 32 28 0 28 silver; l 6 25 26 25 grey 2",
    "lettuce": "o 2 8 20 29 green; o 12 8 30 29 green; o 7 3 25 22 leaf; l 16 8 16 28 cream 2; l 16 20 9 14 cream 2; "
    "l 16 20 23 14 cream 2",
    "mug": "r 4 7 21 28 red; a 15 10 30 25 270 90 red 4; r 4 7 21 11 cream",
    "newspaper": "r 3 3 29 29 white; r 5 5 27 10 black; r 5 13 15 22 grey; l 18 14 27 14 grey 2; l 18 18 27 18 grey 2; "
    "l 18 22 27 22 grey 2; l 5 26 27 26 grey 2",
    "pan": "l 19 15 32 7 brown 4; o 1 10 22 29 black; o 5 14 18 25 grey",
    "papertowel": "r 3 8 29 24 white; l 10 8 10 24 sky 2; l 16 8 16 24 sky 2; l 22 8 22 24 sky 2",
    "papertowelroll": "r 8 5 24 28 white; o 8 1 24 9 silver; o 13 3 19 7 brown; l 20 28 20 12 sky 2",
    "pen": "l 7 25 25 7 blue 5; p 2 30 5 23 9 27 black; l 20 6 27 13 silver 2",
    "pencil": "l 9 23 25 7 yellow 6; p 2 30 6 21 11 26 cream; o 22 3 30 11 pink",
    "peppershaker": "p 9 12 23 12 26 30 6 30 black; c 8 3 24 21 180 360 silver; l 14 17 14 25 white 3; "
    "a 11 16 21 23 270 90 white 3",
    "pillow": "p 2 6 16 9 30 6 27 16 30 26 16 23 2 26 5 16 violet",
    "plate": "o 1 7 31 27 white; o 7 11 25 23 sky",
    "plunger": "l 16 1 16 20 tan 4; c 5 15 27 37 180 360 red; r 5 25 27 28 red",
    "pot": "r 5 13 27 28 silver; r 4 8 28 13 grey; l 0 17 5 17 black 4; l 27 17 32 17 black 4; o 14 4 18 8 black",
    "potato": "o 2 9 25 29 tan; o 9 5 30 25 tan; o 6 8 26 27 tan; o 10 13 12 15 brown; o 19 11 21 13 brown; "
    "o 16 20 18 22 brown",
    "remotecontrol": "r 10 1 22 31 grey; o 13 3 19 9 red; o 12 12 15 15 white; o 17 12 20 15 white; "
    "o 12 18 15 21 white; o 17 18 20 21 white; o 12 24 15 27 white; o 17 24 20 27 white",
    "saltshaker": "p 9 12 23 12 26 30 6 30 white; c 8 3 24 21 180 360 silver; l 20 17 13 18 19 24 12 26 blue 3",
    "scrubbrush": "l 16 1 16 18 sky 4; r 7 16 25 21 blue; l 9 21 9 30 grey 2; l 14 21 14 30 grey 2; "
    "l 19 21 19 30 grey 2; l 23 21 23 30 grey 2",
    "soapbar": "o 2 8 14 26 pink; o 18 8 30 26 pink; r 8 8 24 26 pink; l 9 17 23 17 white 3",
    "soapbottle": "p 10 12 22 12 25 16 25 30 7 30 7 16 teal; r 13 7 19 12 white; l 16 7 16 3 25 3 grey 3; "
    "r 10 18 22 26 white",
    "spatula": "l 29 30 17 15 brown 4; p 2 5 12 1 20 13 10 18 silver; l 8 7 13 14 black 2",
    "spoon": "l 16 14 16 31 grey 4; o 9 1 23 17 silver",
    "spraybottle": "p 11 14 21 14 26 30 6 30 sky; r 12 8 20 14 white; p 6 3 23 3 24 9 12 9 red; l 6 3 3 3 red 3",
    "statue": "r 7 26 25 31 grey; p 11 26 21 26 19 13 13 13 silver; l 12 15 6 21 silver 3; l 20 15 26 10 silver 3; "
    "o 11 3 21 14 silver",
    "teddybear": "o 5 1 13 9 brown; o 19 1 27 9 brown; o 7 13 25 31 brown; o 6 3 26 20 brown; o 11 12 21 19 tan; "
    "o 11 8 14 11 black; o 18 8 21 11 black",
    "television": "r 1 4 31 24 black; r 3 6 29 22 blue; r 9 27 23 30 grey; r 14 24 18 28 grey",
    "tennisracket": "o 9 1 30 21 yellow; o 12 4 27 18 white; l 12 11 27 11 grey 1; l 19 4 19 18 grey 1; "
    "l 13 19 3 30 red 4",
    "tissuebox": "p 9 16 12 3 18 8 23 2 23 16 white; r 2 14 30 29 blue; o 9 12 23 18 sky",
    "toiletpaper": "r 13 5 28 27 white; o 3 5 22 27 white; o 9 12 16 20 brown; l 28 27 28 31 sky 2",
    "toiletpaperroll": "o 4 4 28 28 tan; o 10 10 22 22 brown",
    "tomato": "o 3 8 29 30 red; p 16 13 6 10 13 8 10 3 16 7 22 3 19 8 26 10 green",
    "towel": "p 4 3 28 3 28 30 4 30 sky; l 4 8 28 8 blue 3; l 4 24 28 24 blue 3; l 12 3 12 30 silver 2",
    "vase": "p 11 2 21 2 18 9 26 18 21 30 11 30 6 18 14 9 blue; l 7 18 25 18 white 3",
    "watch": "r 11 0 21 32 brown; o 6 6 26 26 white; l 16 16 16 9 black 2; l 16 16 21 16 black 2",
    "wateringcan": "r 9 13 23 29 green; l 23 20 31 9 green 3; a 0 11 16 27 100 260 green 3; l 28 6 32 12 green 3; "
    "a 9 5 23 21 180 360 green 3",
    "winebottle": "r 13 1 19 12 black; p 13 10 19 10 23 15 23 31 9 31 9 15 violet; r 9 18 23 26 cream",
    # Objects that cannot be moved.
    "armchair": "r 8 3 24 20 orange; r 3 12 9 28 orange; r 23 12 29 28 orange; r 8 17 24 26 yellow",
    "bathtubbasin": "p 1 12 31 12 27 27 5 27 white; r 0 9 32 13 sky; l 8 27 6 31 grey 3; l 24 27 26 31 grey 3; "
    "l 27 9 27 3 23 3 grey 2",
    "bed": "r 2 3 6 30 brown; r 28 15 31 30 brown; r 5 15 29 26 blue; r 6 10 15 17 white",
    "cabinet": "r 3 2 29 30 tan; l 16 2 16 30 black 2; o 11 14 15 18 black; o 17 14 21 18 black",
    "cart": "r 4 8 28 12 silver; r 4 19 28 23 silver; l 4 3 4 26 grey 3; l 28 8 28 26 grey 3; o 2 25 9 32 black; "
    "o 23 25 30 32 black",
    "coffeemachine": "r 5 2 27 30 black; r 8 12 24 27 silver; r 11 18 21 27 brown; o 20 4 25 9 red; r 7 4 15 8 sky",
    "coffeetable": "r 1 13 31 17 tan; l 4 17 4 26 brown 4; l 28 17 28 26 brown 4; l 4 23 28 23 brown 2",
    "countertop": "r 0 8 32 13 grey; r 2 13 30 30 cream; l 11 13 11 30 black 1; l 21 13 21 30 black 1",
    "desk": "r 0 7 32 11 brown; r 19 11 30 28 tan; l 19 19 30 19 black 2; o 23 13 27 17 black; o 23 21 27 25 black; "
    "l 4 11 4 30 brown 4",
    "diningtable": "l 7 14 5 30 brown 4; l 25 14 27 30 brown 4; o 0 4 32 18 brown; o 4 6 28 15 tan",
    "drawer": "r 2 8 30 25 tan; r 5 11 27 22 cream; r 12 15 20 18 black",
    "dresser": "r 3 2 29 29 brown; l 3 11 29 11 black 2; l 3 20 29 20 black 2; o 14 5 18 9 yellow; "
    "o 14 14 18 18 yellow; o 14 23 18 27 yellow",
    "fridge": "r 6 1 26 31 sky; l 6 12 26 12 black 2; l 22 4 22 9 black 3; l 22 15 22 23 black 3",
    "garbagecan": "p 6 9 26 9 23 31 9 31 green; r 4 4 28 9 green; r 12 1 20 4 green; l 12 13 13 27 white 2; "
    "l 20 13 19 27 white 2; l 16 13 16 27 white 2",
    "handtowelholder": "o 13 2 19 8 grey; a 6 7 26 29 0 360 grey 3",
    "laundryhamper": "p 5 8 27 8 24 30 8 30 tan; l 6 14 26 14 brown 2; l 7 20 25 20 brown 2; l 12 8 13 30 brown 2; "
    "l 20 8 19 30 brown 2; o 4 3 28 12 brown",
    "microwave": "r 0 6 32 26 silver; r 3 9 21 23 black; r 23 9 29 13 leaf; o 24 16 28 20 grey",
    "ottoman": "o 2 6 30 16 pink; r 2 11 30 24 violet; o 2 6 30 16 pink; l 5 24 5 29 black 3; l 27 24 27 29 black 3",
    "safe": "r 2 2 30 29 black; r 5 5 27 26 grey; o 10 9 22 21 silver; l 16 15 20 11 black 3; r 4 29 9 32 black; "
    "r 23 29 28 32 black",
    "shelf": "r 1 8 31 12 brown; r 1 21 31 25 brown; r 5 12 8 21 tan; r 24 12 27 21 tan",
    "sidetable": "r 5 7 27 11 tan; l 8 11 6 30 brown 3; l 24 11 26 30 brown 3; r 8 19 24 22 tan",
    "sinkbasin": "r 1 15 31 29 silver; r 5 18 27 26 sky; l 16 15 16 4 23 4 23 9 grey 4",
    "sofa": "r 4 6 28 20 green; r 0 12 6 27 green; r 26 12 32 27 green; r 6 18 16 26 leaf; r 16 18 26 26 leaf",
    "stoveburner": "r 2 2 30 30 black; a 5 5 27 27 0 360 red 3; a 11 11 21 21 0 360 red 3",
    "toaster": "r 9 2 23 14 tan; r 3 9 29 28 silver; l 29 14 32 14 black 4; o 6 20 11 25 black",
    "toilet": "r 8 0 24 11 white; o 4 10 28 26 white; o 9 13 23 22 sky; p 11 24 21 24 23 32 9 32 white",
    "toiletpaperhanger": "l 4 3 4 17 28 17 28 3 grey 4; o 0 0 8 7 silver; o 24 0 32 7 silver",
    "towelholder": "l 2 12 30 12 grey 4; r 1 6 5 18 black; r 27 6 31 18 black",
    "tvstand": "r 1 12 31 27 black; r 4 15 15 24 brown; r 17 15 28 24 brown; r 3 27 7 31 grey; r 25 27 29 31 grey",
}


@lru_cache(maxsize=1024)
def glyph(class_name: str, size: int, lit: bool = False) -> Image.Image:
    """The drawing of a class, with transparency. It is cached: paste it, do not draw on it.

    Args:
        class_name: the class as commands write it, `apple`. A class without a drawing gets a card with its name.
        size: width and height in pixels.
        lit: colour the shade of a lamp.
    """
    image = Image.new("RGBA", (FIELD * _SCALE, FIELD * _SCALE))
    pen = ImageDraw.Draw(image)
    if class_name in DRAWINGS:
        for stroke in DRAWINGS[class_name].split(";"):
            _draw(pen, stroke.split(), lit)
    else:
        _draw_letters(pen, class_name)
    return image.resize((size, size), Image.Resampling.BOX if FIELD * _SCALE % size == 0 else None)


def _draw(pen: ImageDraw.ImageDraw, stroke: list[str], lit: bool) -> None:
    kind, *rest = stroke
    if kind in "la":
        *rest, last = rest
        width = int(last) * _SCALE
    *numbers, name = rest
    colour = _LIT if lit and name == "lamp" else COLOURS[name]
    values = [float(number) for number in numbers]
    box = [value * _SCALE for value in (values if kind in "rolp" else values[:4])]
    match kind:
        case "r":
            pen.rectangle(box, fill=colour, outline=_INK, width=_SCALE)
        case "o":
            pen.ellipse(box, fill=colour, outline=_INK, width=_SCALE)
        case "p":
            pen.polygon(box, fill=colour, outline=_INK, width=_SCALE)
        case "c":
            pen.chord(box, values[4], values[5], fill=colour, outline=_INK, width=_SCALE)
        case "l":
            pen.line(box, fill=colour, width=width, joint="curve")
        case "a":
            pen.arc(box, values[4], values[5], fill=colour, width=width)


def _draw_letters(pen: ImageDraw.ImageDraw, class_name: str) -> None:
    """A card for a class without a drawing: its first three letters on a colour derived from its name."""
    # `hash` of a string differs from process to process, a checksum does not.
    mark = zlib.crc32(class_name.encode())
    colour = f"#{160 + mark % 90:02x}{160 + mark // 90 % 90:02x}{160 + mark // 8100 % 90:02x}"
    side = FIELD * _SCALE
    pen.rectangle((4, 4, side - 5, side - 5), fill=colour, outline=_INK, width=_SCALE)
    pen.text((side // 2, side // 2), class_name[:3], fill=_INK, font=font(54, True), anchor="mm")

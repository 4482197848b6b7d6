"""Settings of `rl4vlm figure`."""

from __future__ import annotations

import re
from dataclasses import field

from pydantic import model_validator

from rl4vlm.config.fields import Count, Positive, Share, settings
from rl4vlm.config.methods import colours
from rl4vlm.core.nearest import did_you_mean

PART_COLOURS = {"thoughts": "#0072B2", "action": "#D55E00"}
"""Colours of the two parts of a reply."""


def known_colours() -> dict[str, str]:
    """Every named colour of the figures: of the methods and of the parts of a reply."""
    return {**colours(), **PART_COLOURS}


@settings
class FigureSettings:
    """How figures look."""

    panel_width: Positive = 1.95
    """Width of a panel in inches."""
    panel_height: Positive = 1.75
    """Height of a panel in inches."""
    font: str = "DejaVu Sans"
    """Font family."""
    font_size: Positive = 7.5
    """Font size in points."""
    line_width: Positive = 1.4
    """Line width in points."""
    marker_size: Positive = 4.0
    """Size of markers in points."""
    band_alpha: Share = 0.2
    """Opacity of the bands around curves."""
    dpi: Count = 220
    """Dots per inch of the PNG files."""
    colours: dict[str, str] = field(default_factory=dict)
    """Colours of single methods, such as RL4VLM or CNN+RL, in any notation that matplotlib accepts."""
    lambda_palette: str = "viridis"
    """The seaborn palette for the values of lambda."""
    show_published_curves: bool = False
    """Also draw the paper's curves, read off by eye and stretched to the length of the reproduced run. The steps of the
    two curves are those of different models."""

    @model_validator(mode="after")
    def _can_be_drawn(self) -> FigureSettings:
        for name, colour in self.colours.items():
            if name not in known_colours():
                raise ValueError(f"no colour is named {name!r}; {did_you_mean(name, known_colours())}")
            if not re.fullmatch(r"#[0-9A-Fa-f]{6}", colour):
                _check_colour(name, colour)
        if self.lambda_palette != FigureSettings.lambda_palette:
            _check_palette(self.lambda_palette)
        return self


# Drawing libraries are imported only for what a glance does not settle: each dry run builds these settings.


def _check_colour(name: str, colour: str) -> None:
    from matplotlib.colors import get_named_colors_mapping, is_color_like

    if not is_color_like(colour):
        near = did_you_mean(colour, get_named_colors_mapping(), otherwise="write it as #RRGGBB")
        raise ValueError(f"{colour!r} (of {name}) is not a colour; {near}")


def _check_palette(palette: str) -> None:
    import matplotlib
    import seaborn

    try:
        seaborn.color_palette(palette, 1)
    except ValueError as error:
        near = did_you_mean(palette, matplotlib.colormaps, otherwise="see seaborn.color_palette")
        raise ValueError(f"lambda_palette {palette!r} is not a palette; {near}") from error

"""Settings of `rl4vlm figure`."""

from __future__ import annotations

from dataclasses import field

from rl4vlm.config.fields import Count, Positive, Share, settings


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
    """Colours of single methods, such as RL4VLM or CNN+RL, in any notation of matplotlib."""
    lambda_palette: str = "viridis"
    """A seaborn palette for the values of lambda."""
    show_published_curves: bool = False
    """Draw the paper's curves as well, read off by eye and stretched to the length of the reproduced run. The two axes
    count steps of different models."""

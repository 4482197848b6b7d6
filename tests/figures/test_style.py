"""Settings of how figures look that no figure could be drawn with."""

import pytest

from rl4vlm.config.overrides import parse_settings
from rl4vlm.figures.style import FigureStyle


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("colours.RL5VLM=red", "RL5VLM"),
        ("colours.RL4VLM=reddish", "reddish"),
        ("dpi=0", "dpi"),
        ("band_alpha=2", "band_alpha"),
        ("lambda_palette=nosuch", "nosuch"),
        ("font=NoSuchFont", "font 'NoSuchFont' is not installed here"),
        ("font=DejaVu Sanz", "did you mean DejaVu Sans"),
    ],
)
def test_wrong_style_is_named(setting, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_settings(FigureStyle, [setting])


@pytest.mark.parametrize("font", ["DejaVu Serif", "dejavu sans mono", "sans-serif", "fantasy"])
def test_a_font_may_be_any_that_is_installed_or_a_generic_family(font):
    assert parse_settings(FigureStyle, [f"font={font}"]).font == font

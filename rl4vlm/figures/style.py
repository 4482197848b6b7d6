"""How figures look, and how they are saved: the same results give the same bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, font_family_aliases, get_font_names
from pydantic import model_validator

from rl4vlm.config.fields import settings
from rl4vlm.config.methods import OTHER_COLOUR
from rl4vlm.config.stages.figures import FigureSettings, known_colours
from rl4vlm.core.files import atomic_write_bytes
from rl4vlm.core.nearest import did_you_mean


@settings
class FigureStyle(FigureSettings):
    """The settings `figures.style` of the config, and what matplotlib makes of them."""

    # Not checked with the config: the machine that draws may have other fonts.
    @model_validator(mode="after")
    def _has_its_font(self) -> FigureStyle:
        if self.font in font_family_aliases:  # generic ones, such as sans-serif
            return self
        family = FontProperties()
        family.set_family(self.font)
        try:
            findfont(family, fallback_to_default=False)
        except ValueError:
            near = did_you_mean(self.font, get_font_names(), otherwise="install it, or name another")
            raise ValueError(f"font {self.font!r} is not installed here; {near}") from None
        return self

    def colour(self, method: str) -> str:
        """The colour of a method, or of a part of a reply; grey for a name that has none."""
        return self.colours.get(method, known_colours().get(method, OTHER_COLOUR))

    def lambda_colours(self, count: int) -> list[tuple[float, float, float]]:
        """`count` colours from dark to light. The palette's ends are left out: the lightest would vanish on paper."""
        return list(sns.color_palette(self.lambda_palette, count))

    def rc(self) -> Any:
        """This style as keyword arguments of `matplotlib.rcParams.update`."""
        small = self.font_size - 1
        return {
            **sns.axes_style("ticks"),
            "font.family": self.font,
            "font.size": self.font_size,
            "axes.titlesize": self.font_size + 0.5,
            "axes.titleweight": "bold",
            "axes.labelsize": self.font_size,
            "xtick.labelsize": small,
            "ytick.labelsize": small,
            "legend.fontsize": small,
            "legend.frameon": False,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.5,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": self.line_width,
            "lines.markersize": self.marker_size,
            # TrueType fonts, so that text in the PDF stays text.
            "pdf.fonttype": 42,
            "savefig.dpi": self.dpi,
        }


@contextmanager
def drawing(style: FigureStyle) -> Iterator[None]:
    """Apply a style to matplotlib. A user's own matplotlibrc is ignored: it would change the bytes of figures."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style.rc())
        yield


class Sheet:
    """A figure to be drawn: a part with the panels, a legend below it, and a note in small print at the foot.

    The part keeps its size. The legend and the note make the figure higher.
    """

    def __init__(self, style: FigureStyle, width: float, height: float, note: str) -> None:
        """`width` and `height` are those of the part with the panels, in inches."""
        size = style.font_size - 1.5
        # On average a letter of the figure font is 0.54 times as wide as the font size.
        text = textwrap.fill(note, int(width * 72 / (0.54 * size)))
        self._height = height
        self._foot = (text.count("\n") + 1.8) * 1.25 * size / 72
        self.figure = Figure(figsize=(width, height + self._foot), layout="constrained")
        self._canvas = FigureCanvasAgg(self.figure)
        self._grid = self.figure.add_gridspec(2, 1, height_ratios=[height, self._foot], hspace=0)
        self.part = self.figure.add_subfigure(self._grid[0])
        foot = self.figure.add_subfigure(self._grid[1])
        foot.text(0.01, 0.9, text, fontsize=size, color="#555555", va="top", linespacing=1.25)

    def legend(self) -> None:
        """One legend of everything drawn on the part, each label once, in as many columns as fit."""
        entries: dict[str, Artist] = {}
        for axis in self.part.axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        columns = len(entries)
        while columns:
            legend = self.part.legend(
                list(entries.values()),
                list(entries),
                loc="outside lower center",
                ncols=columns,
                handlelength=2.2,
                columnspacing=1.4,
                labelspacing=0.35,
            )
            box = legend.get_window_extent(self._canvas.get_renderer())
            if columns == 1 or box.width < 0.98 * self.figure.bbox.width:
                self._grow(box.height / self.figure.dpi)
                return
            legend.remove()
            # With one column less, the entries may need one row more. Use no more columns than these rows need.
            rows = -(-len(entries) // (columns - 1))
            columns = -(-len(entries) // rows)

    def _grow(self, by: float) -> None:
        self._height += by
        self.figure.set_figheight(self._height + self._foot)
        self._grid.set_height_ratios([self._height, self._foot])


def save(figure: Figure, out: Path) -> None:
    """Write `out`.pdf and `out`.png, without dates or program names, so that the same figure gives the same bytes."""
    nothing = {"pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "png": {"Software": None}}
    for kind, metadata in nothing.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        atomic_write_bytes(out.with_name(f"{out.name}.{kind}"), buffer.getvalue())

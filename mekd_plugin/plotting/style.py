"""One figure style: colours that colour-blind readers can tell apart, markers as well, a light and a dark theme."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib
from cycler import cycler

matplotlib.use("Agg", force=False)

from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen before)
from matplotlib.figure import Figure  # noqa: E402

__all__ = ["Picture", "Theme", "colours", "figure_style", "markers", "picture", "png"]

Theme = Literal["light", "dark"]

# Okabe and Ito's palette (2008) in an order that keeps neighbours apart; without yellow, and black is a theme's ink.
_PALETTE = {
    "light": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C3E", "#5B5B5B"),
    "dark": ("#56B4E9", "#FF8C42", "#2FD6A3", "#E79AC6", "#F2C14E", "#8FB8DE", "#C9A27E", "#BDBDBD"),
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_GROUND = {"light": "#ffffff", "dark": "#16191f"}
_INK = {"light": "#1b1f24", "dark": "#e6e8eb"}
_GRID = {"light": "#d9dde3", "dark": "#333a45"}
_DPI, _POINTS = 160, 100
"""Pixels of an inch in a file, and on a page that shows it."""


def colours(count: int, theme: Theme = "light") -> list[str]:
    """``count`` colours, repeated after eight; pair them with :func:`markers`, which are out of step after that."""
    palette = _PALETTE[theme]
    return [palette[index % len(palette)] for index in range(count)]


def markers(count: int) -> list[str]:
    """``count`` markers; from the ninth on, each is paired with another colour than before."""
    return [_MARKERS[(index + index // len(_MARKERS)) % len(_MARKERS)] for index in range(count)]


@contextmanager
def figure_style(theme: Theme = "light") -> Iterator[None]:
    """Matplotlib settings for every figure of this package, undone at the end."""
    ink, ground, grid = _INK[theme], _GROUND[theme], _GRID[theme]
    settings: dict[Any, Any] = {
        "figure.facecolor": ground,
        "savefig.facecolor": ground,
        "axes.facecolor": ground,
        "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": grid,
        "grid.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 10,
        "font.size": 10,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.8,
        "lines.markersize": 6,
        "figure.constrained_layout.use": True,
        "axes.prop_cycle": cycler(color=colours(len(_PALETTE[theme]), theme)),
    }
    with plt.rc_context(settings):
        yield


class Picture(NamedTuple):
    """A figure as the contents of files. A notebook shows it, with ``alt`` for those who cannot see it.

    Attributes:
        png: content of a PNG file.
        svg: content of an SVG file, in which text stays text.
        alt: what is to be seen, in words.
    """

    png: bytes
    svg: bytes
    alt: str = ""

    def __repr__(self) -> str:
        return f"Picture: {self.alt or 'without a description'}"

    def _repr_png_(self) -> tuple[bytes, dict[str, str | int]]:
        pixels = int.from_bytes(self.png[16:20], "big")  # where a PNG file has its width
        return self.png, {"width": pixels * _POINTS // _DPI, "alt": self.alt}


def picture(figure: Figure, *, alt: str = "") -> Picture:
    """The figure as PNG and as SVG, the same bytes for the same figure; it is closed."""
    stream = io.BytesIO()
    # A fixed salt and no date: names within the file would be random otherwise. Text stays text, to be edited.
    with plt.rc_context({"svg.hashsalt": "mekd", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(png(figure), stream.getvalue(), alt)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's content; the figure is closed."""
    stream = io.BytesIO()
    # Without the Software entry the bytes do not depend on matplotlib's version string.
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    plt.close(figure)
    return stream.getvalue()

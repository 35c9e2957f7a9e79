"""The figure style."""

from __future__ import annotations

import matplotlib
import pytest
from matplotlib import pyplot as plt

from mekd_plugin.plotting.style import colours, figure_style, markers, png


def _luminance(colour: str) -> float:
    """Relative luminance as in WCAG 2."""
    channels = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
                for value in matplotlib.colors.to_rgb(colour)]  # fmt: skip
    return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]


@pytest.mark.parametrize(("theme", "contrast"), [("light", 2.0), ("dark", 5.0)])
def test_colours_stand_out_from_the_ground(theme, contrast) -> None:
    with figure_style(theme):
        ground = _luminance(plt.rcParams["axes.facecolor"])
        ink = _luminance(plt.rcParams["text.color"])
    for luminance in map(_luminance, colours(8, theme)):
        lighter, darker = max(luminance, ground), min(luminance, ground)
        assert (lighter + 0.05) / (darker + 0.05) >= contrast
    assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 7


def test_colour_and_marker_together_are_unique_for_sixteen_methods() -> None:
    assert len(set(zip(colours(16), markers(16), strict=True))) == 16


def test_the_style_is_undone() -> None:
    before = plt.rcParams["axes.facecolor"]
    with figure_style("dark"):
        assert plt.rcParams["axes.facecolor"] != before
    assert plt.rcParams["axes.facecolor"] == before


def test_png_closes_the_figure() -> None:
    figure, _ = plt.subplots()
    assert png(figure).startswith(b"\x89PNG")
    assert not plt.fignum_exists(figure.number)

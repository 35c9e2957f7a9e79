"""Figures: one style for all, and what one wants to look at while distilling, each in one call.

    mekd.plotting.images({"stayed": images, "sent": bank.images}, titles={"sent": bank.answers().labels.tolist()})

Read ``drawings.py`` first (rows of images, curves, intervals and others, from plain numbers or tensors to a
:class:`Picture`, which a notebook shows), then ``style.py`` (colours, markers, a light and a dark theme, for figures of
your own). Matplotlib is loaded when ``mekd.plotting`` is first used.
"""

from __future__ import annotations

from mekd_plugin.plotting.drawings import bars, class_map, curves, images, intervals, matched_points
from mekd_plugin.plotting.style import Picture, Theme, colours, figure_style, markers, picture, png

__all__ = [
    "Picture",
    "Theme",
    "bars",
    "class_map",
    "colours",
    "curves",
    "figure_style",
    "images",
    "intervals",
    "markers",
    "matched_points",
    "picture",
    "png",
]

"""Data sets as tensors in [-1, 1], and which of their images the edge and the teacher get."""

from __future__ import annotations

from mekd_plugin.data.datasets import ImageData, dataset_names, load
from mekd_plugin.data.splits import EdgeSplit, edge_images

__all__ = ["EdgeSplit", "ImageData", "dataset_names", "edge_images", "load"]

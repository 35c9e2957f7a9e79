"""Data sets as tensors, and which of their images the edge and the teacher get.

Read ``datasets.py`` first (:func:`load` a data set by name), then ``splits.py`` (which images are the edge's),
``folders.py`` (data sets that are folders of image files) with ``mapped.py`` (images that do not fit into memory), and
``rendered_digits.py`` (digits drawn from fonts).
"""

from __future__ import annotations

from mekd_plugin.data.datasets import ImageData, dataset_names, load
from mekd_plugin.data.folders import read_image_folder, read_tiny_imagenet, to_value_range
from mekd_plugin.data.splits import EdgeSplit, edge_images
from mekd_plugin.image_files import read_images

__all__ = [
    "EdgeSplit",
    "ImageData",
    "dataset_names",
    "edge_images",
    "load",
    "read_image_folder",
    "read_images",
    "read_tiny_imagenet",
    "to_value_range",
]

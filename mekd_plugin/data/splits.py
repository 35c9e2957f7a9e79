"""Which images the edge holds, and which the teacher was trained on: an explicit choice, determined by a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mekd_plugin.data.datasets import ImageData
from mekd_plugin.errors import InputError

__all__ = ["EdgeSplit", "edge_images"]


@dataclass(frozen=True)
class EdgeSplit:
    """The edge's images, and the rows of ``data.train_images`` that each side holds.

    Attributes:
        images: ``(n, channels, height, width)``, the edge's; their labels stay behind.
        indices: ``(n,)`` int64, their rows among the training images.
        teacher_indices: int64, ascending: the rows that the teacher may be trained on.
        disjoint: whether no image is on both sides.
    """

    images: Tensor
    indices: Tensor
    teacher_indices: Tensor
    disjoint: bool


def edge_images(
    data: ImageData,
    *,
    real_fraction: float | None = None,
    real_images: int | None = None,
    seed: int,
    disjoint: bool = False,
) -> EdgeSplit:
    """Draw the edge's unlabelled images uniformly, without their labels, from the training images.

    The same seed gives the same images on any machine, and a smaller draw is the beginning of a larger one, so that
    results for different sizes are comparable. Test images are never among them.

    Args:
        data: the data set to draw from.
        real_fraction: their share of the training images, in (0, 1], rounded down; or
        real_images: their number; give exactly one of the two.
        seed: the seed of the draw.
        disjoint: False, as in the paper: the edge's images are part of what the teacher was trained on. True takes
            them out of the teacher's.

    Raises:
        InputError: both or neither given, fewer than two images, more than there are, or none left for the teacher.

    Source: Ma et al., CVPR 2024, section 4.1 (lambda = 0.1 of the training set).
    """
    total = len(data.train_images)
    if (real_fraction is None) == (real_images is None):
        raise InputError(
            f"real_fraction={real_fraction}, real_images={real_images}: expected exactly one of them, a share of the "
            f"{total} training images of {data.name}, or a number of them"
        )
    if real_fraction is not None:
        if not 0 < real_fraction <= 1:
            raise InputError(f"real_fraction={real_fraction}: expected a share of the training images, in (0, 1]")
        # 0.29 * 100 is 28.999999999999996: a share that means a whole number must not lose one to rounding.
        count, asked = math.floor(real_fraction * total + 1e-6), f"real_fraction={real_fraction}"
    else:
        count, asked = real_images or 0, f"real_images={real_images}"
    if count < 2:
        raise InputError(f"{asked} gives {count} of {total} images: expected at least 2 to learn from")
    if count > total:
        raise InputError(f"{asked}: {data.name} has only {total} training images")
    if disjoint and count == total:
        raise InputError(
            f"{asked} with disjoint=True leaves the teacher none of the {total} training images: ask for fewer"
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    indices = order[:count]
    teacher_indices = order[count:].sort().values if disjoint else torch.arange(total)
    return EdgeSplit(data.train_images[indices], indices, teacher_indices, disjoint)

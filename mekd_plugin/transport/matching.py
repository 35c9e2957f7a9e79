"""Two sets whose rows belong together, one row of each for every image: checked at the door."""

from __future__ import annotations

from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.transport.samples import Points, as_points

__all__ = ["as_matched", "as_scores"]


def as_matched(first: Points, second: Points, first_name: str, second_name: str) -> tuple[Tensor, Tensor]:
    """Both as ``(N, d)`` floating point on the device of the first; row n of one belongs to row n of the other.

    Raises:
        InputError: as :func:`~mekd_plugin.transport.samples.as_points`; shapes that differ.
    """
    one, other = as_points(first, first_name), as_points(second, second_name)
    if one.shape != other.shape:
        raise InputError(
            f"{first_name} of shape {tuple(one.shape)} against {second_name} of shape {tuple(other.shape)}: expected "
            "one row for each image, and the same coordinates, on both sides"
        )
    return one, other.to(one.device)


def as_scores(first: Points, second: Points, first_name: str, second_name: str) -> tuple[Tensor, Tensor]:
    """Both as class scores ``(N, C)``.

    Raises:
        InputError: as :func:`as_matched`; fewer than two classes.
    """
    one, other = as_matched(first, second, first_name, second_name)
    if one.shape[1] < 2:
        raise InputError(f"{first_name} has {one.shape[1]} score an image: expected at least two classes, (N, C)")
    return one, other

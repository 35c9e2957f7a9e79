"""What the transport questions take: points with weights, checked at the door."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mekd_plugin.errors import InputError

__all__ = [
    "Points",
    "Sample",
    "as_labels",
    "as_pair",
    "as_points",
    "as_sample",
    "check_confidence",
    "draw",
    "generator",
]

Points = Tensor | NDArray[np.generic]
"""``(N, ...)``: N points, one a row; what follows is flattened. A plain ``(N,)`` is N numbers."""


class Sample(NamedTuple):
    """A discrete distribution.

    Attributes:
        points: ``(N, d)`` floating point, N at least 1.
        weights: ``(N,)`` float64 on the same device, positive, summing to 1; None is 1/N each.
        note: what was done to the weights, empty where nothing was.
    """

    points: Tensor
    weights: Tensor | None
    note: str = ""

    def __len__(self) -> int:
        return self.points.shape[0]

    def masses(self) -> Tensor:
        """``(N,)`` float64: the weights, written out."""
        if self.weights is not None:
            return self.weights
        return torch.full((len(self),), 1 / len(self), dtype=torch.float64, device=self.points.device)

    def take(self, index: Tensor) -> Sample:
        """The sample of these points only, weights scaled to sum to 1 again."""
        weights = None if self.weights is None else self.weights[index] / self.weights[index].sum()
        return Sample(self.points[index], weights, self.note)


def as_points(x: Points, name: str = "x") -> Tensor:
    """The points as a floating-point tensor ``(N, d)`` on their own device, without a gradient; copied only if
    need be.

    Raises:
        InputError: not a tensor or array, no point or no coordinate, or a value that is not finite.

    >>> as_points(np.arange(3)).shape
    torch.Size([3, 1])
    """
    if not isinstance(x, (Tensor, np.ndarray)):
        raise InputError(f"{name} is a {type(x).__name__}: expected a torch tensor or NumPy array of points, one a row")
    points = x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))
    if points.dim() == 0 or points.numel() == 0:
        raise InputError(f"{name} of shape {tuple(points.shape)}: expected at least one point, (N, d)")
    points = points.unsqueeze(1) if points.dim() == 1 else points.flatten(1)
    if points.is_complex():
        raise InputError(f"{name} is complex: expected real numbers; stack real and imaginary parts as coordinates")
    if points.dtype not in (torch.float32, torch.float64):
        points = points.double()
    low, high = (float(value) for value in points.aminmax())  # propagates NaN, and needs no mask of the whole
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{name} holds values that are not finite (NaN or infinity): leave those points out first")
    return points


def as_sample(x: Points, weights: Points | None = None, name: str = "x") -> Sample:
    """Points with their weights. Weights are scaled to sum to 1; points of weight 0 are left out.

    Raises:
        InputError: as :func:`as_points`; weights of another length, negative, not finite, or all zero.
    """
    points = as_points(x, name)
    if weights is None:
        return Sample(points, None)
    masses = torch.as_tensor(weights).detach().to(points.device, torch.float64)
    if masses.shape != points.shape[:1]:
        raise InputError(f"weights of {name} of shape {tuple(masses.shape)}: expected one a point, ({len(points)},)")
    total = float(masses.sum())
    if not (np.isfinite(total) and float(masses.min()) >= 0 and total > 0):
        raise InputError(
            f"weights of {name} from {float(masses.min()):g} to {float(masses.max()):g}, sum {total:g}: expected "
            "finite weights of at least 0 with a positive sum"
        )
    note = "" if abs(total - 1) < 1e-6 else f"weights of {name} summed to {total:g} and were scaled to 1"
    kept = masses > 0
    if not bool(kept.all()):
        points, masses = points[kept], masses[kept]
    return Sample(points, masses / total, note)


def as_pair(
    x: Points, y: Points, weights_x: Points | None = None, weights_y: Points | None = None
) -> tuple[Sample, Sample]:
    """Both samples, of one dimension, on one device.

    Raises:
        InputError: as :func:`as_sample`; dimensions or devices that differ.
    """
    first, second = as_sample(x, weights_x, "x"), as_sample(y, weights_y, "y")
    if first.points.shape[1] != second.points.shape[1]:
        raise InputError(
            f"x has {first.points.shape[1]} coordinates a point, y has {second.points.shape[1]}: expected the same "
            "space on both sides"
        )
    if first.points.device != second.points.device:
        raise InputError(f"x on {first.points.device}, y on {second.points.device}: move them to one device")
    return first, second


def as_labels(labels: Points, count: int, num_classes: int, name: str) -> Tensor:
    """``(N,)`` int64 class indices on the CPU.

    Raises:
        InputError: not one integer a point, or outside [0, num_classes).
    """
    values = torch.as_tensor(labels).detach().cpu()
    if values.shape != (count,) or values.is_floating_point() or values.dtype == torch.bool:
        raise InputError(
            f"{name} of shape {tuple(values.shape)} and dtype {values.dtype}: expected ({count},) class indices, one a "
            "point"
        )
    values = values.long()
    if int(values.min()) < 0 or int(values.max()) >= num_classes:
        raise InputError(f"{name} from {int(values.min())} to {int(values.max())}: expected [0, {num_classes})")
    return values


def check_confidence(confidence: float) -> None:
    """Refuse a confidence that no interval can have.

    Raises:
        InputError: a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence}: expected a number between 0 and 1, e.g. 0.95")


def generator(seed: int) -> torch.Generator:
    """The random generator of one call; it is on the CPU, so that a seed means the same on every device."""
    return torch.Generator().manual_seed(seed)


def draw(sample: Sample, count: int, rng: torch.Generator) -> Sample:
    """At most ``count`` points without weights, whose expectation is the sample; all of it where it has no more.

    Without weights each point is drawn at most once; with weights, with replacement and in proportion to them.
    """
    if count >= len(sample):
        return sample
    if sample.weights is None:
        chosen = torch.randperm(len(sample), generator=rng)[:count]
    else:
        chosen = torch.multinomial(sample.weights.cpu(), count, replacement=True, generator=rng)
    return Sample(sample.points[chosen.to(sample.points.device)], None, sample.note)

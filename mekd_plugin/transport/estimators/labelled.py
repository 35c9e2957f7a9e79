"""How far apart two labelled sets are, whose classes need not be the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.transport.estimates import Estimate, join_notes
from mekd_plugin.transport.estimators.exact import Order, cost_matrix, exact_cost, exact_plan
from mekd_plugin.transport.estimators.gaussian import gaussian_distance, gaussian_fit
from mekd_plugin.transport.samples import Points, Sample, as_pair, generator

__all__ = ["LABELLED_POINTS", "LabelledDistance", "labelled_distance"]

LABELLED_POINTS = 2000
"""Larger sets are subsampled."""


@dataclass(frozen=True)
class LabelledDistance:
    """The distance between two labelled sets.

    Attributes:
        distance: between them, classes included.
        classes_x: the class indices of x that occur, in order.
        classes_y: those of y.
        between_classes: ``between_classes[i][j]``: distance of class ``classes_x[i]`` to class ``classes_y[j]``.
        correspondence: ``correspondence[i][j]``: share of class ``classes_x[i]``'s mass that the plan moves to class
            ``classes_y[j]``; rows sum to 1.
    """

    distance: Estimate
    classes_x: tuple[int, ...]
    classes_y: tuple[int, ...]
    between_classes: tuple[tuple[float, ...], ...]
    correspondence: tuple[tuple[float, ...], ...]

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return asdict(self)


def labelled_distance(
    x: Points,
    y: Points,
    labels_x: Points,
    labels_y: Points,
    *,
    order: Order = 2,
    between: Literal["gaussian", "exact"] = "gaussian",
    seed: int = 0,
) -> LabelledDistance:
    r"""Transport distance of two labelled sets, whose labels need not have anything in common:

    .. math:: c\big((x, l), (y, m)\big) = \|x - y\|^p + W(x_l, y_m)^p

    where W(x_l, y_m) is the distance of the points of class l to those of class m.

    Args:
        x: ``(N, ...)``; beyond 2,000 points a random 2,000 of them, which the note says.
        y: ``(M, ...)``, the same.
        labels_x: ``(N,)`` integers of any range.
        labels_y: ``(M,)``.
        order: p, 1 or 2.
        between: W of classes: ``"gaussian"`` (Bures-Wasserstein, quick) or ``"exact"`` (W_p).
        seed: of the subsample.

    Raises:
        InputError: points or labels that do not fit, an unknown ``between``, or a solver that did not converge.

    Source: Alvarez-Melis, Fusi, *Geometric Dataset Distances via Optimal Transport*, NeurIPS 2020, equation 5.

    >>> x, labels = torch.tensor([[0.0], [10.0]]), torch.tensor([0, 1])
    >>> result = labelled_distance(x, x + 3, labels, 7 - labels)  # 3 between points, 3 between classes
    >>> round(result.distance.value**2), result.classes_y, result.correspondence
    (18, (6, 7), ((0.0, 1.0), (1.0, 0.0)))
    """
    if between not in ("gaussian", "exact"):
        raise InputError(f'between={between!r}: expected "gaussian" or "exact"')
    first, second = as_pair(x, y)
    rng, size = generator(seed), (len(first), len(second))
    (first, own_x), (second, own_y) = (
        _labelled(sample, labels, name, rng)
        for sample, labels, name in ((first, labels_x, "labels_x"), (second, labels_y, "labels_y"))
    )
    classes_x, index_x = own_x.unique(return_inverse=True)
    classes_y, index_y = own_y.unique(return_inverse=True)
    parts = [
        [Sample(sample.points[index == label], None) for label in range(len(classes))]
        for sample, classes, index in ((first, classes_x, index_x), (second, classes_y, index_y))
    ]
    table = _between(parts[0], parts[1], order, between)
    cost = cost_matrix(first.points, second.points, order) + table[index_x][:, index_y] ** order
    plan, total, _ = exact_plan(first.masses(), second.masses(), cost)
    moved = torch.zeros_like(table).index_put_((index_x[:, None], index_y[None, :]), plan, accumulate=True)
    value = total ** (1 / order)
    subsampled = f"on {len(first)} and {len(second)} of the points, drawn at random"
    note = subsampled if max(size) > LABELLED_POINTS else ""
    return LabelledDistance(
        Estimate(value, "exact", size=size, note=join_notes(f"classes compared by {between}", note)),
        tuple(classes_x.tolist()),
        tuple(classes_y.tolist()),
        _rows(table),
        _rows(moved / moved.sum(1, keepdim=True)),
    )


def _labelled(sample: Sample, labels: Points, name: str, rng: torch.Generator) -> tuple[Sample, Tensor]:
    values = torch.as_tensor(labels).detach().to(sample.points.device)
    if values.shape != (len(sample),) or values.is_floating_point():
        raise InputError(
            f"{name} of shape {tuple(values.shape)} and dtype {values.dtype}: expected ({len(sample)},) integers, "
            "one a point"
        )
    if len(sample) <= LABELLED_POINTS:
        return sample, values
    chosen = torch.randperm(len(sample), generator=rng)[:LABELLED_POINTS].to(values.device)
    return Sample(sample.points[chosen], None), values[chosen]


def _between(x: list[Sample], y: list[Sample], order: Order, between: str) -> Tensor:
    """``(C_x, C_y)`` float64 distances of classes."""
    if between == "exact":
        rows = [[exact_cost(a, b, order) ** (1 / order) for b in y] for a in x]
    else:
        fits_x, fits_y = ([gaussian_fit(part) for part in parts] for parts in (x, y))
        rows = [[gaussian_distance(a, b) for b in fits_y] for a in fits_x]
    return torch.tensor(rows, dtype=torch.float64, device=x[0].points.device)


def _rows(table: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())

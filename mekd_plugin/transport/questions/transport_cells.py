"""A division of the latent space by semi-discrete optimal transport to one prototype a class.

Each prototype gets a cell that holds exactly its class's share of the latents, so that masses say nothing here; where
the cells lie, and how far the teacher's cells depart from them, does.

Source: Peyré, Cuturi, *Computational Optimal Transport*, 2019, chapter 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.transport.estimators.exact import cost_matrix, exact_plan
from mekd_plugin.transport.estimators.neighbours import distance_blocks
from mekd_plugin.transport.samples import Points, as_labels, as_points, as_sample, draw, generator
from mekd_plugin.transport.statistics.proportions import Proportion, proportion_of

__all__ = ["TransportCells", "class_prototypes", "transport_cells"]


@dataclass(frozen=True)
class TransportCells:
    r"""The division of latents by semi-discrete transport to prototypes, with squared Euclidean cost.

    Attributes:
        cells: ``(N,)`` int64, the prototype that each latent goes to: its cell a Laguerre cell
            :math:`\{z : \|z - p_j\|^2 - v_j \text{ least}\}`.
        nearest: ``(N,)`` int64, the nearest prototype, which asks for no masses (a Voronoi cell).
        potentials: v, ``(C,)`` float64, of mean 0: how far a prototype draws beyond its Voronoi cell.
        w2: W2 between latents and weighted prototypes.
        solved_on: how many latents the potentials were computed from, drawn at random; all are assigned by them.
        estimator: how they were computed.
    """

    cells: Tensor
    nearest: Tensor
    potentials: Tensor
    w2: float
    solved_on: int
    estimator: str = "exact transport of a sample to the prototypes (ot.emd)"

    def agreement(self, classes: Points) -> Proportion:
        """Share of latents that another division, ``(N,)`` class indices, puts into the same cell.

        Raises:
            InputError: not one index a latent.
        """
        labels = as_labels(classes, len(self.cells), len(self.potentials), "classes")
        return proportion_of(int((labels == self.cells.cpu()).sum()), len(labels))

    def as_record(self) -> dict[str, Any]:
        """The numbers as JSON types; of the two divisions, the shares of their cells."""
        size, count = len(self.cells), len(self.potentials)
        return {
            "shares": (self.cells.bincount(minlength=count) / size).tolist(),
            "nearest_shares": (self.nearest.bincount(minlength=count) / size).tolist(),
            "potentials": self.potentials.tolist(),
            "w2": self.w2,
            "size": size,
            "solved_on": self.solved_on,
            "estimator": self.estimator,
        }


def class_prototypes(points: Points, classes: Points, num_classes: int) -> Tensor:
    """The mean point of each class, ``(C, d)``, such as the mean scaled score of the real images of a class.

    Args:
        points: ``(N, ...)``.
        classes: ``(N,)`` integers in [0, C).
        num_classes: C.

    Raises:
        InputError: see ``samples``; a class without a point.

    >>> class_prototypes(torch.tensor([1.0, 3.0, 7.0]), torch.tensor([0, 0, 1]), 2).flatten()
    tensor([2., 7.])
    """
    values = as_points(points, "points")
    labels = as_labels(classes, len(values), num_classes, "classes").to(values.device)
    counts = torch.bincount(labels, minlength=num_classes)
    if not counts.all():
        empty = torch.nonzero(counts == 0).flatten().tolist()
        raise InputError(
            f"no point of class {', '.join(map(str, empty))}: a prototype needs at least one of each class"
        )
    sums = values.new_zeros(num_classes, values.shape[1]).index_add_(0, labels, values)
    return sums / counts[:, None]


def transport_cells(
    latent: Points, prototypes: Points, *, weights: Points | None = None, most: int = 10_000, seed: int = 0
) -> TransportCells:
    """Divide latents among prototypes so that each gets its weight, at least cost.

    The continuous side is known through its samples, so the semi-discrete problem is solved for a sample, as an exact
    discrete one; its dual potentials say where every further latent belongs. Masses of the cells are the weights up to
    the few latents that the plan splits, and to the sampling of ``most`` latents where there are more.

    Args:
        latent: z, ``(N, d)``.
        prototypes: ``(C, d)``, one a class: e.g. the mean latent, or mean scaled score, of the class's images.
        weights: ``(C,)``, positive: the classes' shares or counts; None is 1/C each.
        most: latents that the problem is solved on: 10,000 to 100 prototypes take about 0.4 s on one core.
        seed: of the choice of them.

    Raises:
        InputError: see ``samples``; numbers of coordinates that differ, weights that are not positive, or a solver that
            stopped before it converged.

    >>> found = transport_cells(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.0, 9.0]))
    >>> found.cells.tolist(), found.nearest.tolist()
    ([0, 0, 1, 1], [0, 0, 0, 0])
    """
    points = as_points(latent, "latent")
    targets = as_sample(prototypes, weights, "prototypes")
    if points.shape[1] != targets.points.shape[1]:
        raise InputError(
            f"latent has {points.shape[1]} coordinates, prototypes {targets.points.shape[1]}: expected the same space"
        )
    if len(targets) < len(as_points(prototypes, "prototypes")):
        raise InputError("a prototype of weight 0: leave it out; a cell without mass does not exist")
    places = targets.points.to(points)
    sample = draw(as_sample(points), most, generator(seed))
    masses = sample.masses(), targets.masses().to(points.device)
    _, cost, potentials = exact_plan(*masses, cost_matrix(sample.points, places, 2))
    potentials = potentials - potentials.mean()
    divided = [
        torch.stack([(distances.square() - potentials).argmin(dim=1), distances.argmin(dim=1)])
        for _, distances in distance_blocks(points, places)
    ]
    cells, nearest = torch.cat(divided, dim=1)
    return TransportCells(
        cells=cells,
        nearest=nearest,
        potentials=potentials,
        w2=cost**0.5,
        solved_on=len(sample),
    )

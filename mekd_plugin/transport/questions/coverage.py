"""How much of the region of the real images the generated ones reach, by neighbourhoods and by classes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mekd_plugin.errors import InputError
from mekd_plugin.transport.estimators.neighbours import distance_blocks, nearest_other
from mekd_plugin.transport.samples import Points, as_labels, as_pair
from mekd_plugin.transport.statistics.proportions import Proportion, proportion_of

__all__ = ["ClassCoverage", "Coverage", "class_coverage", "coverage"]


@dataclass(frozen=True)
class Coverage:
    """Two sets, compared by balls: the ball of a point reaches to the k-th nearest other point of its own set.

    Attributes:
        precision: share of generated points in the ball of a real one.
        recall: share of real points in the ball of a generated one.
        density: mean number of real balls that a generated point lies in, over k; 1 in expectation for equal
            distributions, above 1 where generated points crowd where real ones do.
        coverage: share of real points with a generated one in their ball: whose nearest generated point is no farther
            than their k-th nearest real one.
        expected_coverage: what equal distributions of these sizes would give on average.
        k: the neighbour whose distance is a ball's radius.
    """

    precision: Proportion
    recall: Proportion
    density: float
    coverage: Proportion
    expected_coverage: float
    k: int

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        shares = {name: getattr(self, name).as_record() for name in ("precision", "recall", "coverage")}
        return {**asdict(self), **shares}


def coverage(real: Points, generated: Points, *, k: int = 5, confidence: float = 0.95) -> Coverage:
    r"""Precision, recall, density and coverage of ``generated``, in whatever space the points are given.

    On the teacher's answers they say how much of its logit region the generator reaches. For equal distributions of N
    real and M generated points

    .. math:: E[\text{coverage}] = 1 - \prod_{j=0}^{k-1} \frac{N - 1 - j}{N - 1 + M - j}

    the probability that not all of the k nearest among the others are real. Departure from the sources: a point on the
    edge of a ball is in it, so that copies of duplicated points count as covered.

    Args:
        real: ``(N, ...)``, N above k.
        generated: ``(M, ...)``, M above k.
        k: 5 in the second source.
        confidence: of the shares' intervals.

    Raises:
        InputError: see ``samples``; k that is not from 1 to the smaller size less 1.

    Sources: Kynkäänniemi et al., *Improved Precision and Recall Metric for Assessing Generative Models*, NeurIPS 2019;
    Naeem et al., *Reliable Fidelity and Diversity Metrics for Generative Models*, ICML 2020, whose closed form this is.

    >>> found = coverage(torch.tensor([0.0, 1.0, 10.0, 11.0]), torch.tensor([0.25, 0.5, 0.75]), k=1)
    >>> found.precision.value, found.recall.value, found.coverage.value
    (1.0, 0.5, 0.5)
    """
    first, second = (sample.points for sample in as_pair(real, generated))
    reach_real, reach_generated = nearest_other(first, k), nearest_other(second, k)
    covered = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    recalled = torch.zeros_like(covered)
    precise = inside = 0
    for block, distances in distance_blocks(second, first):
        within = distances <= reach_real
        precise += int(within.any(dim=1).sum())
        inside += int(within.sum())
        covered |= within.any(dim=0)
        recalled |= (distances <= reach_generated[block, None]).any(dim=0)
    sizes = len(first), len(second)
    missed = math.prod((sizes[0] - 1 - j) / (sum(sizes) - 1 - j) for j in range(k))
    return Coverage(
        proportion_of(precise, sizes[1], confidence=confidence),
        proportion_of(int(recalled.sum()), sizes[0], confidence=confidence),
        inside / (k * sizes[1]),
        proportion_of(int(covered.sum()), sizes[0], confidence=confidence),
        1 - missed,
        k,
    )


@dataclass(frozen=True)
class ClassCoverage:
    """Shares of the classes among labels, against what they should be.

    Attributes:
        shares: of each class, with Wilson's intervals.
        expected: of each class, summing to 1.
        missing: classes that should occur and do not.
        rare: classes that occur less than ``rare_below`` times as often as they should.
        rare_below: that factor.
        total_variation: half the sum of absolute differences, in [0, 1]: the share of images in the wrong classes.
    """

    shares: tuple[Proportion, ...]
    expected: tuple[float, ...]
    missing: tuple[int, ...]
    rare: tuple[int, ...]
    rare_below: float
    total_variation: float

    @property
    def collapsed(self) -> bool:
        """Whether a class is missing or rare: mode collapse, as far as classes show it."""
        return bool(self.missing or self.rare)

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {**asdict(self), "shares": [share.as_record() for share in self.shares]}


def class_coverage(
    labels: Points,
    num_classes: int,
    *,
    expected: Points | None = None,
    rare_below: float = 0.1,
    confidence: float = 0.95,
) -> ClassCoverage:
    """Which classes occur, and how often.

    Args:
        labels: ``(N,)`` integers in [0, C): the teacher's arg max for generated images.
        num_classes: C.
        expected: ``(C,)`` at least 0, scaled to sum to 1: shares or counts of the classes among real images; None is
            1/C each.
        rare_below: a class counts as rare below this fraction of its expected share.
        confidence: of the intervals.

    Raises:
        InputError: no labels, labels outside [0, C), or expected shares that are not C finite numbers of at least 0
            with a positive sum.

    >>> found = class_coverage(torch.tensor([0] * 30 + [1]), 3)
    >>> found.missing, found.rare
    ((2,), (1,))
    """
    if len(labels) == 0:
        raise InputError("no labels: expected the class of at least one image")
    found = as_labels(labels, len(labels), num_classes, "labels")
    wanted = torch.ones(num_classes) if expected is None else torch.as_tensor(expected).detach().cpu()
    wanted = wanted.double()
    if wanted.shape != (num_classes,) or not wanted.isfinite().all() or wanted.min() < 0 or wanted.sum() <= 0:
        raise InputError(
            f"expected={wanted.tolist()}: expected {num_classes} finite numbers of at least 0 with a positive sum"
        )
    wanted = wanted / wanted.sum()
    counts = torch.bincount(found, minlength=num_classes)
    shares = counts / len(found)
    rare = (counts > 0) & (shares < rare_below * wanted)
    return ClassCoverage(
        tuple(proportion_of(int(count), len(found), confidence=confidence) for count in counts),
        tuple(wanted.tolist()),
        tuple(torch.nonzero((counts == 0) & (wanted > 0)).flatten().tolist()),
        tuple(torch.nonzero(rare).flatten().tolist()),
        rare_below,
        float((shares - wanted).abs().sum() / 2),
    )

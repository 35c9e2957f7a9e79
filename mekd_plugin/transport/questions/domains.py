"""How far apart several domains of images are, and how far each is from itself.

Points are images, features or responses; what they are is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mekd_plugin.errors import InputError
from mekd_plugin.transport.estimates import Estimate
from mekd_plugin.transport.estimators.distances import wasserstein
from mekd_plugin.transport.estimators.exact import Order
from mekd_plugin.transport.samples import Points, as_points, generator

__all__ = ["DomainDistances", "domain_distances"]


@dataclass(frozen=True)
class DomainDistances:
    """Every domain against every other.

    Attributes:
        names: of the domains.
        matrix: ``matrix[i][j]`` is the distance between i and j, symmetric; ``matrix[i][i]`` that of two halves of
            domain i, which is what "no difference" looks like at this number of points.
        points: on each side of each distance.
    """

    names: tuple[str, ...]
    matrix: tuple[tuple[Estimate, ...], ...]
    points: int

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return asdict(self)


def domain_distances(
    domains: Mapping[str, Points], *, order: Order = 1, points: int = 1000, seed: int = 0
) -> DomainDistances:
    """W_p between all domains, from sets of one size, so that the numbers can be compared.

    Each domain is cut into two halves at random, of at most ``points`` points, as many as the smallest domain allows.
    Two domains are compared by their first halves, a domain with itself by both.

    Args:
        domains: name to ``(N, ...)`` points, all in one space; at least two points each.
        order: p, 1 or 2.
        points: largest half.
        seed: of the halves.

    Raises:
        InputError: no domain, a domain of one point, dimensions that differ.

    >>> result = domain_distances({"a": torch.zeros(4, 1), "b": torch.ones(6, 1)})
    >>> [[estimate.value for estimate in row] for row in result.matrix]
    [[0.0, 1.0], [1.0, 0.0]]
    """
    sets = {name: as_points(x, name) for name, x in domains.items()}
    if not sets or min(len(x) for x in sets.values()) < 2:
        sizes = {name: len(x) for name, x in sets.items()}
        raise InputError(f"domains of {sizes} points: expected at least one domain, of at least two points each")
    half = min(points, *(len(x) // 2 for x in sets.values()))
    rng = generator(seed)
    chosen = [torch.randperm(len(x), generator=rng)[: 2 * half].to(x.device) for x in sets.values()]
    halves = [(x[rows[:half]], x[rows[half:]]) for x, rows in zip(sets.values(), chosen, strict=True)]
    matrix: list[list[Estimate]] = []
    for i, (first, second) in enumerate(halves):
        row = [matrix[j][i] for j in range(i)]
        others = [second, *(later for later, _ in halves[i + 1 :])]
        row += [wasserstein(first, other, order=order, seed=seed) for other in others]
        matrix.append(row)
    return DomainDistances(tuple(sets), tuple(map(tuple, matrix)), half)

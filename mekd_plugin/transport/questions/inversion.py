"""Has the generator become the inverse of the teacher? Definition 2 of the paper, and what it leaves out.

Definition 2 compares marginals: G is the inverse of T when W1 between the images G(z) and the real ones is 0
(:func:`distance_to_real`). A G that draws the right images in the wrong places passes it. Whether T undoes G, and G
undoes T, image by image, is asked by :func:`latent_round_trip` and :func:`image_round_trip`.

Source: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from mekd_plugin.responses import centre_scores
from mekd_plugin.transport.estimates import Estimate
from mekd_plugin.transport.estimators.distances import paired_cost, wasserstein
from mekd_plugin.transport.estimators.neighbours import distance_blocks
from mekd_plugin.transport.matching import as_matched, as_scores
from mekd_plugin.transport.samples import Points, Sample, as_sample, draw
from mekd_plugin.transport.samples import generator as seeded
from mekd_plugin.transport.statistics.proportions import Proportion, proportion_of

__all__ = ["DistanceToReal", "RoundTrip", "distance_to_real", "image_round_trip", "latent_round_trip"]


@dataclass(frozen=True)
class DistanceToReal:
    """Generated images against real ones in one space.

    Attributes:
        w1: W1 between both.
        w2: W2 between both.
        baseline_w1: W1 between held-out real images, as many as the generated ones, and the same real ones: what a
            perfect generator has at these sizes, for the distance of finite samples is never 0. None without any.
        baseline_w2: the same for W2.
    """

    w1: Estimate
    w2: Estimate
    baseline_w1: Estimate | None
    baseline_w2: Estimate | None

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {name: None if value is None else value.as_record() for name, value in vars(self).items()}


def distance_to_real(
    generated: Points, real: Points, *, held_out: Points | None = None, resamples: int = 0, seed: int = 0
) -> DistanceToReal:
    """W1 and W2 between generated and real images, in the space that they are given in: pixels, or features.

    Args:
        generated: ``(M, ...)``: the images G(z), or a network's features of them.
        real: ``(N, ...)``: the same of real images.
        held_out: the same of further real images, for the baseline. Generated and held-out ones are cut, at random, to
            as many as there are of both.
        resamples: see :func:`~mekd_plugin.transport.estimators.distances.wasserstein`.
        seed: of all randomness.

    Raises:
        InputError: see ``samples``; numbers of coordinates that differ.

    >>> import numpy as np
    >>> real, others = np.array([1.0, 3.0]), np.array([3.0, 1.0])
    >>> found = distance_to_real(np.array([0.0, 2.0]), real, held_out=others)
    >>> found.w1.value, found.baseline_w1.value
    (1.0, 0.0)
    """

    def both(sample: Sample) -> tuple[Estimate, Estimate]:
        distance = partial(wasserstein, sample.points, real, resamples=resamples, seed=seed)
        return distance(order=1), distance(order=2)

    made = as_sample(generated, name="generated")
    baseline: tuple[Estimate | None, Estimate | None] = (None, None)
    if held_out is not None:
        others, rng = as_sample(held_out, name="held_out"), seeded(seed)
        count = min(len(made), len(others))
        made, others = draw(made, count, rng), draw(others, count, rng)
        baseline = both(others)
    return DistanceToReal(*both(made), *baseline)


@dataclass(frozen=True)
class RoundTrip:
    """What a round trip returns, against what it started from.

    Attributes:
        scale: what the returned points are multiplied by before they are compared one by one: the least-squares one,
            or 1.
        explained: 1 less the squared error over the squared deviation from the mean: 1 for a perfect return, 0 for one
            that is no better than always returning the mean, below 0 for a worse one; None where all
            starting points are the same.
        paired: mean distance from a point to its own scaled return.
        unpaired: mean distance from a point to the scaled return of another: what ``paired`` would be by chance. None
            for a single point.
        recognised: share of points whose nearest scaled return is their own, ties counted in equal parts; 1/N by
            chance.
        distribution_scale: what the returned points are multiplied by before they are compared as distributions: the
            one that gives both the same mean square, or 1.
        distribution: W1 after it. Small beside a large ``paired`` says right marginals, wrong places.
        same_class: share of points with the same arg max before and after; None for images.
    """

    scale: float
    explained: float | None
    paired: Estimate
    unpaired: float | None
    recognised: Proportion
    distribution_scale: float
    distribution: Estimate
    same_class: Proportion | None

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        typed = (Estimate, Proportion)
        return {name: value.as_record() if isinstance(value, typed) else value for name, value in vars(self).items()}


def latent_round_trip(latent: Points, answers: Points, *, seed: int = 0) -> RoundTrip:
    r"""The round trip z -> G -> T against z: does the teacher answer the image of z with z, up to one scale?

    Both are centred image by image, since a response is known up to a constant. Pointwise after the least-squares scale

    .. math:: a = \frac{\sum_n \langle y_n, z_n \rangle}{\sum_n \|y_n\|^2}

    (0 where all answers are 0), as distributions after the ratio of root mean squares.

    Args:
        latent: z, ``(N, C)``: the coordinates that stand for class scores, without any style.
        answers: y = T(G(z)), ``(N, C)``.
        seed: of the estimator of W1, where it draws at random.

    Raises:
        InputError: see ``samples``; shapes that differ, or fewer than two classes.

    >>> import numpy as np
    >>> z = np.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> found = latent_round_trip(z, 4 * z)
    >>> found.scale, found.explained, found.same_class.value
    (0.25, 1.0, 1.0)
    """
    z, y = (centre_scores(scores.double()) for scores in as_scores(latent, answers, "latent", "answers"))
    size = float(y.square().sum())
    scale = float((y * z).sum()) / size if size else 0.0
    spread = (float(z.square().sum()) / size) ** 0.5 if size else 0.0
    same = proportion_of(int((z.argmax(dim=1) == y.argmax(dim=1)).sum()), len(z))
    return _compare(z, y, scale, spread, same, seed)


def image_round_trip(images: Points, returned: Points, *, seed: int = 0) -> RoundTrip:
    """The round trip x -> T -> G against x: does the generator redraw an image from the teacher's answer to it?

    Args:
        images: x, ``(N, ...)`` real images, or their features.
        returned: G(T(x) / t_g, e), ``(N, ...)``, or their features.
        seed: of the estimator of W1, where it draws at random.

    Raises:
        InputError: see ``samples``; shapes that differ.
    """
    x, back = (points.double() for points in as_matched(images, returned, "images", "returned"))
    return _compare(x, back, 1.0, 1.0, None, seed)


def _compare(start: Tensor, back: Tensor, scale: float, spread: float, same: Proportion | None, seed: int) -> RoundTrip:
    scaled = scale * back
    deviation = float((start - start.mean(dim=0)).square().sum())
    recognised = total = own = 0.0
    for block, distances in distance_blocks(start, scaled):
        mine = distances[:, block].diagonal()
        nearest = distances <= distances.amin(dim=1, keepdim=True)
        recognised += float(((mine <= distances.amin(dim=1)) / nearest.sum(dim=1)).sum())
        total, own = total + float(distances.sum()), own + float(mine.sum())
    count = len(start)
    return RoundTrip(
        scale=scale,
        explained=1 - float((start - scaled).square().sum()) / deviation if deviation else None,
        paired=paired_cost(start, scaled),
        unpaired=(total - own) / (count * (count - 1)) if count > 1 else None,
        recognised=proportion_of(recognised, count),
        distribution_scale=spread,
        distribution=wasserstein(start, spread * back, seed=seed),
        same_class=same,
    )

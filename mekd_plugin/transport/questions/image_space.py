"""Does a smaller distance in image space come with a smaller one between logits? Both, over the course of a training.

Source of the question: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR
2024, which claims that drawing the images G(y_S) and G(y_T) together forces the logits y_S and y_T together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.responses import centre_scores
from mekd_plugin.transport.estimates import Estimate
from mekd_plugin.transport.estimators.distances import paired_cost
from mekd_plugin.transport.matching import as_matched, as_scores
from mekd_plugin.transport.samples import Points
from mekd_plugin.transport.statistics.rank_correlation import RankCorrelation, rank_correlation

__all__ = ["Parting", "Snapshot", "Trajectory", "track"]


class Snapshot(NamedTuple):
    """Student against teacher after ``step`` steps.

    Attributes:
        step: of the training.
        image_distance: between G(y_S) and G(y_T), in the unit of the images, all pixels together.
        logit_distance: between y_S and y_T, centred, in the unit of the scores.
        across_images: rank correlation, over the images at this step, of an image's own two distances.
    """

    step: int
    image_distance: Estimate
    logit_distance: Estimate
    across_images: RankCorrelation

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        measured = ("image_distance", "logit_distance", "across_images")
        return {"step": self.step, **{name: getattr(self, name).as_record() for name in measured}}


class Parting(NamedTuple):
    """Two successive snapshots between which one distance fell and the other rose.

    Attributes:
        start: step of the first.
        stop: step of the second.
        image_change: of the image distance, negative where it fell.
        logit_change: of the logit distance.
    """

    start: int
    stop: int
    image_change: float
    logit_change: float


@dataclass(frozen=True)
class Trajectory:
    """Both distances over a training.

    Attributes:
        snapshots: in the order of their steps.
        levels: rank correlation of the two distances over the snapshots. Any two quantities that fall all the time have
            1, whether or not one moves the other.
        changes: rank correlation of their changes from snapshot to snapshot, which a common trend does not make.
        partings: where one fell and the other rose, both by more than ``least_change`` of their range.
    """

    snapshots: tuple[Snapshot, ...]
    levels: RankCorrelation
    changes: RankCorrelation
    partings: tuple[Parting, ...]

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {
            "snapshots": [snapshot.as_record() for snapshot in self.snapshots],
            "levels": self.levels.as_record(),
            "changes": self.changes.as_record(),
            "partings": [parting._asdict() for parting in self.partings],
        }


@torch.no_grad()
def track(
    generator: Callable[[Tensor], Tensor],
    students: Mapping[int, Points],
    teacher: Points,
    *,
    distance: Callable[[Tensor, Tensor], Estimate] = paired_cost,
    least_change: float = 0.01,
    seed: int = 0,
) -> Trajectory:
    """Measure every snapshot of a student in image space and between logits, on the same images.

    Args:
        generator: centred scores ``(N, C)`` -> images ``(N, ...)``: G with its divisor t_g and each row's style bound
            in, in evaluation mode. Called once for the teacher and once for each snapshot.
        students: step -> the student's scores y_S then, ``(N, C)``.
        teacher: y_T, ``(N, C)``, for the same images.
        distance: of both pairs of point sets: :func:`~mekd_plugin.transport.estimators.distances.paired_cost`, what the
            losses reduce, or :func:`~mekd_plugin.transport.estimators.distances.wasserstein`, what the definitions are
            about.
        least_change: a change must exceed this share of a distance's range over all snapshots to count as a parting.
        seed: of the correlations' intervals.

    Raises:
        InputError: no snapshot, scores that are not finite ``(N, C)`` of one shape, or a generator that does not give
            one image a row.

    >>> toward = {0: torch.tensor([[2.0, -2.0]]), 10: torch.tensor([[1.0, -1.0]])}
    >>> found = track(lambda y: 3 * y, toward, torch.zeros(1, 2))
    >>> [round(at.image_distance.value / at.logit_distance.value, 3) for at in found.snapshots]
    [3.0, 3.0]
    """
    if not students:
        raise InputError("no snapshots of the student: expected scores of at least one step")
    target: Tensor | None = None
    snapshots = []
    for step in sorted(students):
        scores, wanted = (centre_scores(y) for y in as_scores(students[step], teacher, f"student at {step}", "teacher"))
        target = _drawn(generator, wanted) if target is None else target
        images, target = as_matched(_drawn(generator, scores), target, "generated by the student", "by the teacher")
        own = [(a - b).double().norm(dim=1).cpu().numpy() for a, b in ((images, target), (scores, wanted))]
        across = rank_correlation(*own, seed=seed)
        snapshots.append(Snapshot(step, distance(images, target), distance(scores, wanted), across))
    levels = np.array([(at.image_distance.value, at.logit_distance.value) for at in snapshots])
    changes, least = np.diff(levels, axis=0), least_change * np.ptp(levels, axis=0)
    return Trajectory(
        tuple(snapshots),
        rank_correlation(*levels.T, seed=seed),
        rank_correlation(*changes.T, seed=seed),
        tuple(
            Parting(before.step, after.step, float(image), float(logit))
            for (before, after), (image, logit) in zip(pairwise(snapshots), changes, strict=True)
            if image * logit < 0 and (np.abs([image, logit]) > least).all()
        ),
    )


def _drawn(generator: Callable[[Tensor], Tensor], scores: Tensor) -> Tensor:
    images = generator(scores)
    if len(images) != len(scores):
        raise InputError(f"the generator drew {len(images)} images from {len(scores)} rows: expected one a row")
    return images

"""Can somebody who sees what was sent tell whose images stayed at home? A membership attack by nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.transport.estimators.neighbours import distance_blocks
from mekd_plugin.transport.samples import Points, as_points, check_confidence, generator
from mekd_plugin.transport.statistics.proportions import Proportion, proportion_of
from mekd_plugin.transport.statistics.roc import (
    AreaUnderCurve,
    TruePositiveRate,
    area_under_curve,
    true_positive_rate,
)

__all__ = ["Membership", "membership"]

_SHORTLIST = 32  # a random half of the images holds none of so many neighbours once in four thousand million times
_LARGEST_RATIO = 1e6  # of what copies images of others: JSON has no infinity


@dataclass(frozen=True)
class Membership:
    """How much what was sent says about which images its sender holds.

    Attributes:
        auc: of the attack: the chance that it names the member of a random pair of a member and another image; 0.5 by
            guessing.
        true_positives: share of members found while 1 % of the others are taken for members.
        uncalibrated: the area under the curve without ``reference``, of the distance alone.
        nearest_ratio: mean distance of the images sent to the nearest member, over that to the nearest of as many
            others: 0 for copies, about 1 for what knows nothing of the members.
        nearest_ratio_chance: the range in which it stays in 95 % of cases if members and others are exchangeable.
        nearer_to_members: share of the images sent that lie nearer to a member, ties half; its interval takes all three
            sets as given.
        sent: how many images the attack saw.
        reference: how many images calibrated it; 0 where none did.
        member_scores: ``(N,)``, the attack's score of each member, higher for what it takes for members.
        other_scores: ``(H,)``, of each other image.
    """

    auc: AreaUnderCurve
    true_positives: TruePositiveRate
    uncalibrated: AreaUnderCurve
    nearest_ratio: float
    nearest_ratio_chance: tuple[float, float]
    nearer_to_members: Proportion
    sent: int
    reference: int
    member_scores: Tensor
    other_scores: Tensor

    def as_record(self) -> dict[str, Any]:
        """The numbers as JSON types, without the scores."""
        return {
            "auc": self.auc.as_record(),
            "true_positives": self.true_positives.as_record(),
            "uncalibrated": self.uncalibrated.as_record(),
            "nearest_ratio": self.nearest_ratio,
            "nearest_ratio_chance": list(self.nearest_ratio_chance),
            "nearer_to_members": self.nearer_to_members.as_record(),
            "sent": self.sent,
            "members": len(self.member_scores),
            "others": len(self.other_scores),
            "reference": self.reference,
        }


def membership(
    sent: Points,
    members: Points,
    others: Points,
    *,
    reference: Points | None = None,
    at: float = 0.01,
    permutations: int = 199,
    confidence: float = 0.95,
    seed: int = 0,
) -> Membership:
    r"""Attack what was sent: an image is taken for one of the sender's the nearer to it something was sent.

    The score of an image x is :math:`d_R / (d_S + d_R)`, with :math:`d_S` its distance to the nearest image sent and
    :math:`d_R` to the nearest ``reference`` image: an image that is near to everything is no suspect for being near to
    what was sent. 1 is a copy of what was sent; 1/2 where both are as near, or both at 0. Without a reference the score
    is :math:`-d_S`.

    Where sent images say nothing of the members, members and others are exchangeable and the interval of the area holds
    0.5 as often as it claims. An attack that fails proves no privacy: a stronger one may not.

    Args:
        sent: ``(M, ...)`` images that left, or their features: all of them, since the nearest may be any; of a sample
            the attack finds less.
        members: ``(N, ...)`` images that the sender holds, N at least 2.
        others: ``(H, ...)`` of the same distribution that it does not hold, H at least 2.
        reference: ``(R, ...)`` further ones that it does not hold, for calibration.
        at: false positives of ``true_positives``.
        permutations: relabellings of members and others for ``nearest_ratio_chance``.
        confidence: of the intervals.
        seed: of relabellings and resamples.

    Raises:
        InputError: see ``samples``; numbers of coordinates that differ, fewer than two images in a group, or a setting
            out of range.

    Source: Chen, Yu, Zhang, Fritz, *GAN-Leaks: A Taxonomy of Membership Inference Attacks against Generative Models*,
    CCS 2020, sections 4.2 and 4.4 (the full black-box attack by the nearest generated image, and its calibration);
    Hilprecht, Haerterich, Bernau, *Monte Carlo and Reconstruction Membership Inference Attacks against Generative
    Models*, PoPETs 2019. Departures: real reference images calibrate where GAN-Leaks trains a reference generator, and
    a ratio where it takes a difference, so that no unit is left.
    """
    check_confidence(confidence)
    if permutations < 1:
        raise InputError(f"permutations={permutations}: expected at least 1, e.g. 199")
    seen, own, foreign = as_points(sent, "sent"), as_points(members, "members"), as_points(others, "others")
    third = None if reference is None else as_points(reference, "reference")
    for name, points in (("members", own), ("others", foreign), ("reference", third)):
        if points is not None and points.shape[1] != seen.shape[1]:
            raise InputError(
                f"sent has {seen.shape[1]} coordinates an image, {name} has {points.shape[1]}: expected the same"
            )
    if min(len(own), len(foreign)) < 2:
        raise InputError(f"{len(own)} members and {len(foreign)} others: expected at least two of each")
    pool = torch.cat([own, foreign.to(own)]).to(seen.device)
    # As many others as members, or the larger group would be nearer for its number alone.
    even = min(len(own), len(foreign))
    paired = torch.cat([torch.arange(even), len(own) + torch.arange(even)]).to(seen.device)
    to_sent = torch.full((len(pool),), torch.inf, dtype=torch.float64, device=seen.device)
    near, index = [], []
    for _, distances in distance_blocks(seen, pool):
        to_sent = torch.minimum(to_sent, distances.amin(dim=0))
        closest = distances[:, paired].topk(min(_SHORTLIST, 2 * even), dim=1, largest=False)
        near.append(closest.values.cpu())
        index.append(closest.indices.cpu())
    distance = to_sent.cpu()
    scores = -distance
    if third is not None:
        blocks = distance_blocks(pool, third.to(pool))
        to_reference = torch.cat([distances.amin(dim=1) for _, distances in blocks]).cpu()
        total = distance + to_reference
        scores = torch.where(total > 0, to_reference / total, 0.5)
    shortlist, places = torch.cat(near), torch.cat(index)
    ours = torch.arange(2 * even) < even
    ratio, to_own, to_foreign = _ratio(shortlist, ours[places])
    nearer = float((to_own < to_foreign).double().sum() + (to_own == to_foreign).double().sum() / 2)
    rng = generator(seed)
    relabelled = [
        _ratio(shortlist, ours[torch.randperm(2 * even, generator=rng)][places])[0] for _ in range(permutations)
    ]
    low, high = torch.tensor(relabelled, dtype=torch.float64).quantile(_tails(0.95)).tolist()
    count = len(own)
    return Membership(
        area_under_curve(scores[:count], scores[count:], confidence=confidence),
        true_positive_rate(scores[:count], scores[count:], at=at, confidence=confidence, seed=seed),
        area_under_curve(-distance[:count], -distance[count:], confidence=confidence),
        ratio,
        (low, high),
        proportion_of(nearer, len(seen), confidence=confidence),
        len(seen),
        0 if third is None else len(third),
        scores[:count],
        scores[count:],
    )


def _ratio(shortlist: Tensor, ours: Tensor) -> tuple[float, Tensor, Tensor]:
    """Ratio of the mean distances to the nearest of ours and of the others, 1 where both are 0; and the distances.

    Args:
        shortlist: ``(M, s)`` distances, ascending.
        ours: ``(M, s)``, which of them are to ours.
    """
    farthest = shortlist[:, -1:]  # where none of a group is on the list, it lies at least as far
    to_own = torch.where(ours, shortlist, farthest).amin(dim=1)
    to_foreign = torch.where(ours, farthest, shortlist).amin(dim=1)
    own, foreign = float(to_own.mean()), float(to_foreign.mean())
    ratio = 1.0 if own == foreign else min(own / foreign, _LARGEST_RATIO) if foreign > 0 else _LARGEST_RATIO
    return ratio, to_own, to_foreign


def _tails(confidence: float) -> Tensor:
    return torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)

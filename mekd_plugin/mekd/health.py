"""How healthy a generator is, read off the bank that it filled, without any further query."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mekd_plugin.rows import Rows

__all__ = ["Advice", "Health", "generator_health"]

_NAMED = 10  # classes that a warning lists by name
_NEIGHBOURS = 5
_ROWS_PER_CLASS = 10  # with fewer, a row's neighbours cannot be expected to hold its class
_LARGEST_TABLE = 13_000_000_000  # multiply-adds of a table of distances: 1,000 x 1,000 images of 3 x 64 x 64


class Advice(NamedTuple):
    """What to change about a generator of some kind, as the user would write it.

    Attributes:
        closer: where its images lie too far from real ones.
        richer: where it leaves classes out.
        freer: where its images lie too near to single real ones.
    """

    closer: str = "train stage 1 for more steps (emulation.steps)"
    richer: str = "give it more latent noise (emulation.style_dim)"
    freer: str = "train stage 1 for fewer steps (emulation.steps)"


_OF_A_NETWORK = Advice()


@dataclass(frozen=True)
class Health:
    """How good a generator is for distillation, from answers that were bought anyway.

    Attributes:
        class_shares: share of each class among the teacher's answers to generated images.
        confidence: the teacher's mean highest probability; None for hard responses.
        distance_to_real: median distance (root mean square per pixel) from a generated image to its nearest real one.
        real_to_real: the same from a real image to its nearest other real one: what a held-out image would have.
        neighbour_agreement: share of generated images to which the teacher gives the class that it gives most of
            their five nearest generated neighbours; None with fewer than ten images for each class.
        warnings: what is wrong and what to change.
    """

    class_shares: list[float]
    confidence: float | None
    distance_to_real: float
    real_to_real: float
    neighbour_agreement: float | None
    warnings: list[str]

    def as_record(self) -> dict[str, Any]:
        return asdict(self)


def generator_health(generated: Rows, real: Tensor, advice: Advice = _OF_A_NETWORK, *, most: int = 1000) -> Health:
    """Judge a generator by the bank it filled.

    Args:
        generated: rows of generated images and the teacher's answers.
        real: the edge's images ``(N, channels, height, width)``, N at least 2.
        advice: what the warnings tell the user to change.
        most: the largest number of images of each kind that distances are computed on; fewer where images are large.
    """
    response = generated.answers()
    labels = response.labels.cpu()
    shares = torch.bincount(labels, minlength=response.num_classes) / len(response)
    confidence = float(response.scores().softmax(dim=1).amax(dim=1).mean()) if response.soft else None
    most = min(most, int((_LARGEST_TABLE / real[0].numel()) ** 0.5))
    known = real[:most].flatten(1)
    # Spread over the whole bank: what was asked last may look otherwise than what was asked first.
    chosen = torch.linspace(0, len(response) - 1, min(most, len(response))).round().long()
    made = generated.images[chosen.to(generated.images.device)].to(known).flatten(1)
    scale = known.shape[1] ** 0.5
    nearest_made = torch.cdist(made, known).amin(dim=1).median() / scale
    nearest_real = _apart(known).amin(dim=1).median() / scale
    agreement = None
    if len(made) >= _ROWS_PER_CLASS * response.num_classes:
        agreement = _neighbour_agreement(made, labels[chosen], response.num_classes)
    health = Health(shares.tolist(), confidence, float(nearest_made), float(nearest_real), agreement, [])
    health.warnings.extend(_complaints(health, made, scale, len(response), advice))
    return health


def _apart(points: Tensor) -> Tensor:
    """Distances between all ``points``, infinite from each to itself."""
    return torch.cdist(points, points).fill_diagonal_(float("inf"))


def _neighbour_agreement(images: Tensor, labels: Tensor, num_classes: int) -> float:
    """Accuracy of a nearest-neighbour classifier on the rows that it consists of, each left out in turn."""
    nearest = _apart(images).topk(_NEIGHBOURS, largest=False).indices.cpu()
    votes = torch.nn.functional.one_hot(labels[nearest], num_classes).sum(dim=1)
    return float((votes.argmax(dim=1) == labels).float().mean())


def _complaints(health: Health, made: Tensor, scale: float, answers: int, advice: Advice) -> list[str]:
    complaints = []
    if missing := _missing_classes(health.class_shares, answers):
        complaints.append(
            f"{missing} (under a tenth of an equal share of its images): {advice.closer}, {advice.richer}, or take "
            "more real images"
        )
    commonest = max(health.class_shares)
    guessed = health.neighbour_agreement
    if guessed is not None and guessed < commonest + 0.1 * (1 - commonest):
        complaints.append(
            "the teacher's answers about generated images hardly depend on what these look like: their nearest "
            f"neighbours tell the answer in {guessed:.0%} of cases, and naming the commonest class does in "
            f"{commonest:.0%}. The generator has probably missed what the teacher looks at, and the student may be "
            f"no better than chance on real images: {advice.closer}, or take a method that asks about real images, "
            "such as 'kd'"
        )
    spread = float(torch.cdist(made[:200], made[:200]).median()) / scale
    if spread < 0.3 * health.real_to_real:
        complaints.append(
            "the generator draws nearly the same image again and again (mode collapse): take more real images, or "
            f"{advice.freer}"
        )
    if health.distance_to_real < 0.5 * health.real_to_real:
        complaints.append(
            "generated images lie closer to single real images than real images lie to each other: the generator may "
            f"copy them, and what leaves the edge may not be private: {advice.freer}, or take more real images"
        )
    elif health.distance_to_real > 3 * health.real_to_real:
        complaints.append(f"generated images look like none of the real ones: {advice.closer}")
    return complaints


def _missing_classes(shares: list[float], answers: int) -> str:
    """Which classes are drawn too seldom for chance to explain it; empty where there are none."""
    from scipy.stats import binom

    classes = len(shares)
    missing = [str(label) for label, share in enumerate(shares) if share < 0.1 / classes]
    # With few answers to a class, many classes get none even if all are drawn equally often.
    seldom = float(binom.cdf(math.ceil(0.1 * answers / classes) - 1, answers, 1 / classes))
    if len(missing) <= classes * seldom + 3 * (classes * seldom * (1 - seldom)) ** 0.5:
        return ""
    if len(missing) <= _NAMED:
        return f"the generator hardly draws class {', '.join(missing)}"
    drawn = sorted(range(classes), key=lambda label: -shares[label])[:_NAMED]
    often = ", ".join(str(label) for label in drawn if shares[label] > 0)
    return f"the generator hardly draws {len(missing)} of {classes:,} classes; the teacher answers most often {often}"

"""What the transport questions answer with: a number, how it was computed, and how sure it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Estimate", "PermutationTest", "ResponseComparison", "ResponseDistances", "join_notes"]


@dataclass(frozen=True)
class Estimate:
    """One distance.

    Attributes:
        value: at least 0, in the unit of the points.
        estimator: how it was computed: ``"exact"``, ``"sliced"``, ``"max_sliced"``, ``"minibatch"``,
            ``"bijection"``, ``"low_rank"``, ``"sinkhorn"``, ``"gaussian"``, ``"paired"``.
        low: lower end of the interval; None where none was asked for.
        high: upper end.
        size: points of weight above zero in x and in y.
        note: what the interval covers, which way the value errs, what was done to the input.
    """

    value: float
    estimator: str
    low: float | None = None
    high: float | None = None
    size: tuple[int, int] = (0, 0)
    note: str = ""

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {**asdict(self), "size": list(self.size)}


@dataclass(frozen=True)
class PermutationTest:
    """A test of "both sets come from one distribution".

    Attributes:
        p_value: share of relabellings whose statistic is at least as large as the observed one, in (0, 1].
        statistic: the observed one.
        permutations: how many relabellings; the smallest possible p value is 1 / (permutations + 1).
        note: what was relabelled.
    """

    p_value: float
    statistic: float
    permutations: int
    note: str = ""

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class ResponseDistances:
    """Student and teacher in one space.

    Attributes:
        w1: W1.
        w2: W2.
        sinkhorn: debiased Sinkhorn divergence, order 2, to the power 1/2.
        sliced: sliced W2.
        max_sliced: max-sliced W2, a lower bound of it.
        gaussian: W2 of the Gaussian fits (Bures-Wasserstein).
        paired: mean distance between the two responses to an image; what it exceeds W1 by is the mix-up.
        paired_w2: the root of the mean squared one.
        test: permutation test that exchanges the two responses of an image.
    """

    w1: Estimate
    w2: Estimate
    sinkhorn: Estimate
    sliced: Estimate
    max_sliced: Estimate
    gaussian: Estimate
    paired: Estimate
    paired_w2: Estimate
    test: PermutationTest

    @property
    def mix_up(self) -> float:
        """Paired cost less W1, at least 0: what a better assignment of the same responses to images would save."""
        return max(self.paired.value - self.w1.value, 0.0)

    @property
    def shift_share(self) -> float:
        """W1 as a share of the paired cost, in [0, 1]: 1 is a pure shift of the distribution, 0 a pure mix-up of
        images. 1 where both are 0.
        """
        return min(self.w1.value / self.paired.value, 1.0) if self.paired.value > 0 else 1.0


@dataclass(frozen=True)
class ResponseComparison:
    """All of question 1.

    Attributes:
        logits: on scores centred over the classes, image by image, in logits.
        probabilities: on softened probabilities, in units of probability; at most the root of 2.
        classes: W1 on logits among the images of each class, None for a class without images.
        classes_paired: the mean paired cost on logits, the same.
        temperature: of the softening.
        agreement: share of images on which both have the same arg max.
        images: how many there are.
    """

    logits: ResponseDistances
    probabilities: ResponseDistances
    classes: dict[int, Estimate | None]
    classes_paired: dict[int, Estimate | None]
    temperature: float
    agreement: float
    images: int

    def as_record(self) -> dict[str, Any]:
        """The same as JSON types, with mix-up and shift written out."""
        record = asdict(self)
        for space, distances in (("logits", self.logits), ("probabilities", self.probabilities)):
            record[space] |= {"mix_up": distances.mix_up, "shift_share": distances.shift_share}
        for name in ("classes", "classes_paired"):
            record[name] = {str(label): value for label, value in record[name].items()}
        return record


def join_notes(*notes: str) -> str:
    """The notes that are not empty, each once."""
    return "; ".join(dict.fromkeys(note for note in notes if note))

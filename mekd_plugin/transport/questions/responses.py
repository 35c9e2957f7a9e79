"""How far a student's response distribution is from its teacher's (Definition 1), and what that leaves out.

Both answer to the same images. Transport forgets which image an answer belongs to: a student that gives every image
another image's answer is at distance 0. The paired cost, each image's own two answers, is never below the transport
cost; the gap between them is a mix-up of images, the transport cost itself a shift of the distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.responses import centre_scores
from mekd_plugin.transport.estimates import Estimate, ResponseComparison, ResponseDistances
from mekd_plugin.transport.estimators.distances import paired_cost, wasserstein
from mekd_plugin.transport.estimators.gaussian import bures_wasserstein
from mekd_plugin.transport.estimators.sinkhorn import sinkhorn_divergence
from mekd_plugin.transport.questions.permutation import permutation_test
from mekd_plugin.transport.samples import Points, as_labels, as_points

__all__ = ["compare_responses", "per_class"]


def compare_responses(
    student: Points,
    teacher: Points,
    *,
    temperature: float = 5.0,
    classes: Points | None = None,
    confidence: float = 0.95,
    resamples: int = 50,
    permutations: int = 200,
    seed: int = 0,
) -> ResponseComparison:
    """Every distance of this package between a student's and its teacher's responses, beside the paired cost.

    Args:
        student: ``(N, C)`` logits or log-probabilities, one row an image.
        teacher: ``(N, C)``, of the same images in the same order. Both are centred, as a score is known only up to a
            constant per image.
        temperature: t of softmax(y / t), positive; the paper's is 5.
        classes: ``(N,)`` integers in [0, C), the images' classes; None is the teacher's arg max.
        confidence: of all intervals.
        resamples: subsamples behind the intervals of exact distances, 0 for no intervals.
        permutations: of the tests.
        seed: of all randomness.

    Raises:
        InputError: not ``(N, C)``, shapes that differ, a temperature that is not positive, classes that do not fit.

    >>> import torch
    >>> teacher = 5 * torch.eye(4)
    >>> result = compare_responses(teacher.roll(1, dims=0), teacher, resamples=0, permutations=9)
    >>> result.logits.w1.value, round(result.logits.paired.value, 3), result.agreement  # same set, no image right
    (0.0, 7.071, 0.0)
    """
    if not temperature > 0:
        raise InputError(f"temperature={temperature}: expected a positive number, e.g. 5")
    first, second = (
        centre_scores(as_points(scores, name).double()) for scores, name in ((student, "student"), (teacher, "teacher"))
    )
    if first.shape[1] < 2:
        raise InputError(
            f"responses of shape {tuple(first.shape)}: expected scores of at least 2 classes (N, C); of a single one "
            "nothing is left after centring"
        )
    if first.shape != second.shape:
        raise InputError(
            f"student's responses of shape {tuple(first.shape)}, teacher's {tuple(second.shape)}: expected the same "
            "images and classes on both sides"
        )
    count, num_classes = first.shape
    own = second.argmax(1) if classes is None else as_labels(classes, count, num_classes, "classes")

    def measured(x: Tensor, y: Tensor) -> ResponseDistances:
        shared: dict[str, Any] = {"confidence": confidence, "seed": seed}
        return ResponseDistances(
            w1=wasserstein(x, y, order=1, resamples=resamples, **shared),
            w2=wasserstein(x, y, order=2, resamples=resamples, **shared),
            sinkhorn=sinkhorn_divergence(x, y, order=2, seed=seed),
            sliced=wasserstein(x, y, order=2, estimator="sliced", **shared),
            max_sliced=wasserstein(x, y, order=2, estimator="max_sliced", **shared),
            gaussian=bures_wasserstein(x, y),
            paired=paired_cost(x, y, order=1, confidence=confidence),
            paired_w2=paired_cost(x, y, order=2, confidence=confidence),
            test=permutation_test(x, y, permutations=permutations, paired=True, seed=seed),
        )

    return ResponseComparison(
        logits=measured(first, second),
        probabilities=measured((first / temperature).softmax(1), (second / temperature).softmax(1)),
        classes=per_class(first, second, own, own, num_classes),
        classes_paired=per_class(first, second, own, own, num_classes, distance=paired_cost),
        temperature=temperature,
        agreement=float((first.argmax(1) == second.argmax(1)).double().mean()),
        images=count,
    )


def per_class(
    x: Points,
    y: Points,
    classes_x: Points,
    classes_y: Points,
    num_classes: int,
    distance: Callable[[Tensor, Tensor], Estimate] = wasserstein,
) -> dict[int, Estimate | None]:
    """The distance within each class, between the points of x and of y that are of that class.

    Args:
        x: ``(N, ...)``.
        y: ``(M, ...)``.
        classes_x: ``(N,)`` integers in [0, num_classes).
        classes_y: ``(M,)`` integers, the same.
        num_classes: C.
        distance: of two sets of points; settings are bound with ``functools.partial``.

    Returns:
        a distance for each class, None where a side has no point of it.

    Raises:
        InputError: labels that do not fit their points or leave [0, num_classes).
    """
    first, second = as_points(x, "x"), as_points(y, "y")
    labels_x = as_labels(classes_x, len(first), num_classes, "classes_x").to(first.device)
    labels_y = as_labels(classes_y, len(second), num_classes, "classes_y").to(second.device)
    result: dict[int, Estimate | None] = {}
    for label in range(num_classes):
        members = first[labels_x == label], second[labels_y == label]
        result[label] = distance(*members) if all(len(points) for points in members) else None
    return result

"""What may come back from a teacher: one finite answer per image, of the declared kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.checks import as_whole
from mekd_plugin.errors import InputError, TeacherAnswerError
from mekd_plugin.responses import Kind, Response

__all__ = ["Precision", "as_tensor", "check_response", "filled_in", "precise"]

_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Precision:
    """How much of its probabilities a teacher reports; its answers are checked against it.

    Attributes:
        rounding: decimals they are rounded or truncated to; None where they are not.
        top_k: how many of the largest it reports, with 0 for all others; None where it reports all.

    Raises:
        InputError: no such number, or declared of a teacher that answers no probabilities.
    """

    kind: Kind
    rounding: int | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("rounding", self.rounding), ("top_k", self.top_k)):
            if value is None:
                continue
            counted = "decimals" if name == "rounding" else "classes"
            object.__setattr__(self, name, as_whole(name, value, at_least=1, of=counted, strict=True))
            if self.kind != "probabilities":
                raise InputError(f"{name}={value} with responses={self.kind!r}: it is about probabilities only")

    @property
    def partial(self) -> bool:
        """Whether something is left out."""
        return self.rounding is not None or self.top_k is not None

    def tolerance(self, dtype: torch.dtype, told: int) -> float:
        """How far the sum of ``told`` probabilities, computed in ``dtype``, may be from 1."""
        step = 0.0 if self.rounding is None else told * 10.0**-self.rounding
        return max(_SUM_TOLERANCE, torch.finfo(dtype).eps) + step


def as_tensor(answer: Any, count: int, batch: int) -> Tensor:
    """A teacher's answer to ``count`` images as a tensor of its own, without gradient history.

    Lists of numbers, as JSON has them, become float64 scores ``(N, C)`` or labels ``(N,)``.

    Raises:
        TeacherAnswerError: not a tensor, array or lists, or not one answer per image; ``batch`` is named.
    """
    if isinstance(answer, list):
        answer = _from_lists(answer, batch)
    if isinstance(answer, np.ndarray | np.generic):
        try:
            answer = torch.as_tensor(answer)
        except TypeError as error:
            raise _nonsense(batch, f"an array of dtype {answer.dtype}", "numbers") from error
    if not isinstance(answer, Tensor):
        expected = "one tensor or NumPy array, or lists of numbers (answer= takes it out of more)"
        raise _nonsense(batch, f"a {type(answer).__name__}", expected)
    if answer.dim() == 0 or len(answer) != count:
        raise _nonsense(batch, f"shape {tuple(answer.shape)}", f"one answer for each of {count} images")
    # The clone is not an inference tensor and shares no memory with anything of the teacher.
    return answer.detach().clone()


def check_response(
    answer: Tensor,
    kind: Kind,
    num_classes: int | None,
    batch: int,
    *,
    precision: Precision | None = None,
    computed_in: torch.dtype = torch.float32,
) -> Response:
    """A teacher's answer as the response it was declared to be.

    Args:
        answer: ``(N, C)`` floating point scores, of which hard responses keep the arg max, or for hard responses
            ``(N,)`` integers.
        kind: what was declared.
        num_classes: C; None to learn it from the scores.
        batch: number of the batch, for messages.
        precision: of probabilities; what is left out of them is filled in, see ``BlackBox``.
        computed_in: dtype that the teacher answered in, before it was converted.

    Raises:
        TeacherAnswerError: the answer is not that.
        InputError: hard responses and no way to know how many classes there are.
    """
    whole = not answer.is_floating_point() and not answer.is_complex() and answer.dtype != torch.bool
    if kind == "hard" and answer.dim() == 1 and whole:
        if num_classes is None:
            raise InputError("class indices do not tell how many classes there are: give the black box num_classes=")
        labels = answer.to(torch.int64)
        smallest, largest = (value.item() for value in labels.aminmax())
        if smallest < 0 or largest >= num_classes:
            raise _nonsense(batch, f"class indices from {smallest} to {largest}", f"0 to {num_classes - 1}")
        return Response(labels, kind, num_classes)
    if answer.dim() != 2:
        wanted = "(N,) integer class indices or (N, C) scores" if kind == "hard" else "(N, C) scores"
        raise _nonsense(batch, f"shape {tuple(answer.shape)} of {answer.dtype}", wanted)
    if not answer.is_floating_point():
        raise _nonsense(batch, f"scores of dtype {answer.dtype}", "floating point scores")
    if answer.shape[1] != num_classes and (num_classes is not None or answer.shape[1] < 2):
        expected = "at least 2 classes" if num_classes is None else f"{num_classes} classes (num_classes=)"
        raise _nonsense(batch, f"scores of {answer.shape[1]} classes", expected)
    if not bool(answer.isfinite().all()):
        row = int((~answer.isfinite()).any(dim=1).nonzero()[0])
        raise _nonsense(batch, f"NaN or infinite scores, first for its image {row}", "finite scores")
    if kind == "probabilities":
        answer = _check_probabilities(answer, batch, precision or Precision(kind), computed_in)
    values = answer.argmax(dim=1) if kind == "hard" else answer
    return Response(values, kind, answer.shape[1])


def filled_in(answer: Tensor) -> Tensor:
    """``answer`` with what is missing from a sum of 1 spread evenly over the classes answered as 0; rows sum to 1."""
    answer = answer.clamp_min(0)
    left_out = answer == 0
    missing = (1 - answer.sum(dim=1, keepdim=True)).clamp_min(0)
    answer = answer + left_out * (missing / left_out.sum(dim=1, keepdim=True).clamp_min(1))
    return answer / answer.sum(dim=1, keepdim=True)


def precise(dtype: torch.dtype) -> torch.dtype:
    """The dtype of scores for images of ``dtype``: the same, or float32 where that is less precise."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def _from_lists(answer: list[Any], batch: int) -> np.ndarray:
    leaf: Any = answer
    while isinstance(leaf, list) and leaf:
        leaf = leaf[0]
    if isinstance(leaf, Tensor | np.ndarray):
        expected = "one tensor or NumPy array, or lists of numbers (answer= takes it out of more)"
        raise _nonsense(batch, f"a list of {type(leaf).__name__}s", expected)
    try:
        array = np.array(answer)
    except ValueError as error:
        raise _nonsense(batch, "lists of different lengths", "as many numbers for each image") from error
    if array.dtype.kind not in "iuf":
        raise _nonsense(batch, f"lists of {type(leaf).__name__}s", "lists of numbers")
    return array.astype(np.float64) if array.ndim > 1 else array  # JSON writes a score of 1.0 as 1, too


def _check_probabilities(answer: Tensor, batch: int, precision: Precision, dtype: torch.dtype) -> Tensor:
    told = answer.shape[1] if precision.top_k is None else min(precision.top_k, answer.shape[1])
    tolerance = precision.tolerance(dtype, told)
    smallest, largest = (value.item() for value in answer.aminmax())
    if smallest < -_SUM_TOLERANCE or largest > 1 + tolerance:
        found = f"values from {smallest:.4g} to {largest:.4g}"
        raise _nonsense(batch, found, 'probabilities in [0, 1]; are they responses="logits"?')
    if precision.top_k is not None:
        most = int((answer != 0).sum(dim=1).max())
        if most > precision.top_k:
            expected = f"at most top_k={precision.top_k}, and 0 for all other classes"
            raise _nonsense(batch, f"{most} probabilities for one image", expected)
    sums = answer.sum(dim=1)
    least = told / answer.shape[1]  # the k largest of C have k parts in C of the sum, or more
    error = torch.maximum(sums - 1, least - sums)
    if error.max() > tolerance:
        row = int(error.argmax())
        raise _nonsense(
            batch,
            f"probabilities that sum to {sums[row].item():.4g} for its image {row}",
            f"a sum of 1 to within {tolerance:.2g}. A service that rounds is declared by rounding=decimals, one that "
            "leaves small ones out by top_k=; a sum far from 1 comes from a sigmoid, or from scores that are "
            'responses="logits"',
        )
    return filled_in(answer) if precision.partial else answer


def _nonsense(batch: int, found: str, expected: str) -> TeacherAnswerError:
    return TeacherAnswerError(f"the teacher's answer to batch {batch} has {found}: expected {expected}")

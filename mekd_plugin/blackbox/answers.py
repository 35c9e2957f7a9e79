"""What may be sent to a teacher, and what may come back: checks at the boundary, both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.errors import InputError, TeacherAnswerError
from mekd_plugin.responses import Kind, Response

__all__ = ["as_tensor", "check_images", "check_response", "quantize_images"]

_RANGE_TOLERANCE = 1e-4  # part of the width of the value range: what resampling in float32 may add
_SUM_TOLERANCE = 1e-3


def check_images(images: Tensor, value_range: tuple[float, float] | None) -> None:
    """Refuse what no image classifier could be asked about.

    Args:
        images: ``(N, channels, height, width)``, floating point, N at least 1.
        value_range: smallest and largest value allowed; None does not look.

    Raises:
        InputError: not such a tensor, not finite, or outside the range.
    """
    if not isinstance(images, Tensor):
        raise InputError(f"images of type {type(images).__name__}: expected a tensor (N, channels, height, width)")
    if images.dim() != 4:
        raise InputError(
            f"images of shape {tuple(images.shape)}: expected (N, channels, height, width); "
            "a single image needs a batch dimension, images[None]"
        )
    if not images.is_floating_point():
        raise InputError(
            f"images of dtype {images.dtype}: expected floating point values in the teacher's value_range; "
            "bytes become that by images.float() / 127.5 - 1"
        )
    if images.numel() == 0:
        raise InputError(f"images of shape {tuple(images.shape)} hold no value: expected at least one image")
    smallest, largest = (value.item() for value in images.detach().aminmax())
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise InputError("the images hold NaN or infinite values: find where they come from before asking about them")
    if value_range is not None:
        low, high = value_range
        tolerance = _RANGE_TOLERANCE * (high - low)
        if smallest < low - tolerance or largest > high + tolerance:
            raise InputError(
                f"images with values from {smallest:.4g} to {largest:.4g}: expected {low:g} to {high:g}; rescale them, "
                "or declare what the teacher takes, value_range=(low, high)"
            )


def quantize_images(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """``images`` rounded to the 256 levels of ``value_range``: what is left of them after an 8-bit upload."""
    low, high = value_range
    step = (high - low) / 255
    return ((images - low) / step).round().clamp(0, 255) * step + low


def as_tensor(answer: Any, count: int, batch: int) -> Tensor:
    """A teacher's answer to ``count`` images as a tensor of its own, without gradient history.

    Raises:
        TeacherAnswerError: neither tensor nor array, or not one answer an image; ``batch`` is named.
    """
    if isinstance(answer, np.ndarray | np.generic):
        try:
            answer = torch.as_tensor(answer)
        except TypeError as error:
            raise _nonsense(batch, f"an array of dtype {answer.dtype}", "numbers") from error
    if not isinstance(answer, Tensor):
        raise _nonsense(batch, f"a {type(answer).__name__}", "one tensor or NumPy array (answer= takes it out of more)")
    if answer.dim() == 0 or len(answer) != count:
        raise _nonsense(batch, f"shape {tuple(answer.shape)}", f"one answer for each of {count} images")
    # The clone is no inference tensor and shares no memory with anything of the teacher.
    return answer.detach().clone()


def check_response(answer: Tensor, kind: Kind, num_classes: int | None, batch: int) -> Response:
    """A teacher's answer as the response it was declared to be.

    Args:
        answer: ``(N, C)`` floating point scores, of which hard responses keep the arg max, or for hard responses
            ``(N,)`` integers.
        kind: what was declared.
        num_classes: C; None to learn it from the scores.
        batch: number of the batch, for messages.

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
        _check_probabilities(answer, batch)
    values = answer.argmax(dim=1) if kind == "hard" else answer
    return Response(values, kind, answer.shape[1])


def _check_probabilities(answer: Tensor, batch: int) -> None:
    smallest, largest = (value.item() for value in answer.aminmax())
    if smallest < -_SUM_TOLERANCE or largest > 1 + _SUM_TOLERANCE:
        found = f"values from {smallest:.4g} to {largest:.4g}"
        raise _nonsense(batch, found, 'probabilities in [0, 1]; are they responses="logits"?')
    error = (answer.sum(dim=1) - 1).abs()
    if error.max() > _SUM_TOLERANCE:
        row = int(error.argmax())
        raise _nonsense(
            batch,
            f"probabilities that sum to {answer[row].sum().item():.4g} for its image {row}",
            "a sum of 1; one probability for each class, from a softmax and not a sigmoid",
        )


def _nonsense(batch: int, found: str, expected: str) -> TeacherAnswerError:
    return TeacherAnswerError(f"the teacher's answer to batch {batch} has {found}: expected {expected}")

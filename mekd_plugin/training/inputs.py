"""What a user hands in, checked and brought into the form that a run works with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError
from mekd_plugin.modes import evaluating

__all__ = ["as_images", "as_teacher", "classes_of"]

_ROUNDING = 1e-5  # resampling may pass the range by as much of its width


def as_teacher(
    teacher: BlackBox | Callable[[Tensor], Any],
    *,
    responses: str | None,
    num_classes: int | None,
    budget: int | None,
) -> BlackBox:
    """``teacher`` behind the boundary.

    Raises:
        InputError: it is a :class:`BlackBox` already and is described a second time.
    """
    if not isinstance(teacher, BlackBox):
        return BlackBox(teacher, responses, num_classes, budget=budget)
    repeated = {"responses": responses, "budget": budget}
    if given := [name for name, value in repeated.items() if value is not None]:
        raise InputError(f"{' and '.join(given)} belong to the BlackBox that was handed in: set them there, not twice")
    return teacher


def as_images(images: Tensor | Iterable[Any], teacher: BlackBox) -> Tensor:
    """The edge's images as one tensor ``(N, channels, height, width)``.

    Args:
        images: such a tensor, a dataset of images or of tuples that begin with one, or a loader of batches of either.
        teacher: whose value range the images must keep to.

    Raises:
        InputError: there are fewer than two images, they differ in shape, are no floating-point tensors, hold values
            that are not finite, or leave the teacher's value range.
    """
    tensor = images if isinstance(images, Tensor) else _collect(images)
    if tensor.dim() != 4 or not tensor.is_floating_point():
        raise InputError(
            f"images of shape {tuple(tensor.shape)} and {tensor.dtype}: expected floating point "
            "(N, channels, height, width); scale integers to the teacher's value range first"
        )
    if len(tensor) < 2:
        raise InputError(f"{len(tensor)} images: expected at least 2 unlabelled images of the edge")
    if not torch.isfinite(tensor).all():
        raise InputError("the images hold NaN or infinite values; clean them before they are sent to a teacher")
    low, high = teacher.value_range
    slack = _ROUNDING * (high - low)
    if tensor.min() < low - slack or tensor.max() > high + slack:
        raise InputError(
            f"images reach from {float(tensor.min()):.4g} to {float(tensor.max()):.4g}, outside the teacher's "
            f"value_range ({low:g}, {high:g}); scale them, or say BlackBox(..., value_range=...)"
        )
    return tensor.detach().clamp(low, high)


def classes_of(teacher: BlackBox, student: nn.Module, images: Tensor, num_classes: int | None) -> int:
    """How many classes there are, agreed between the caller, the teacher and the student's output.

    Args:
        teacher: may not know its number of classes yet; then it expects the one found here.
        student: asked for the shape of its output on ``images``, in evaluation mode.
        images: a few images ``(n, channels, height, width)``.
        num_classes: what the caller says; None asks the student.

    Raises:
        InputError: the student cannot take the images, or the numbers differ.
    """
    device = next((weight.device for weight in student.parameters()), images.device)
    try:
        with evaluating(student), torch.inference_mode():
            logits = student(images.to(device))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the student cannot take images of shape {tuple(images.shape)}: {error}; images and student must fit "
            "(channels, size, dtype)"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        described = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the student returned {described}: expected logits ({len(images)}, C)")
    width = logits.shape[1]
    if num_classes is not None and num_classes != width:
        raise InputError(f"num_classes={num_classes}, but the student has {width} outputs: they must be equal")
    teacher.expect_classes(width)
    return width


def _collect(images: Iterable[Any]) -> Tensor:
    parts: list[Tensor] = []
    for index, item in enumerate(images):
        image = item[0] if isinstance(item, tuple | list) else item
        if not isinstance(image, Tensor) or image.dim() not in (3, 4):
            described = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InputError(
                f"item {index} of images is {described}: expected a tensor (channels, height, width), a batch of "
                "them, or a tuple that begins with one"
            )
        batch = image if image.dim() == 4 else image.unsqueeze(0)
        if parts and batch.shape[1:] != parts[0].shape[1:]:
            raise InputError(
                f"item {index} of images has shape {tuple(batch.shape[1:])}, the first one "
                f"{tuple(parts[0].shape[1:])}: resize them to one shape"
            )
        parts.append(batch)
    if not parts:
        raise InputError("images is empty: expected at least 2 unlabelled images of the edge")
    return torch.cat(parts)

"""What a user hands in, checked and brought into the form that a run works with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_shape, as_whole
from mekd_plugin.errors import InputError
from mekd_plugin.image_files import is_images_of_files, read_images
from mekd_plugin.modes import evaluating

__all__ = ["as_images", "as_teacher", "check_student", "classes_of", "shape_without_images"]

_ROUNDING = 1e-5  # resampling may pass the range by as much of its width


def as_teacher(
    teacher: BlackBox | Callable[[Tensor], Any],
    *,
    responses: str | None,
    num_classes: int | None,
    budget: int | None,
    classes: Sequence[str] | None = None,
    teacher_size: int | tuple[int, int] | None = None,
    cost_per_1000: float | None = None,
    cost_limit: float | None = None,
) -> BlackBox:
    """``teacher`` behind the boundary.

    Raises:
        InputError: it is a :class:`BlackBox` already and is described a second time.
    """
    said: dict[str, Any] = {
        "budget": budget,
        "classes": classes,
        "teacher_size": teacher_size,
        "cost_per_1000": cost_per_1000,
        "cost_limit": cost_limit,
    }
    if not isinstance(teacher, BlackBox):
        return BlackBox(teacher, responses, num_classes, **said)
    repeated = {"responses": responses, **said}
    if given := [name for name, value in repeated.items() if value is not None]:
        verb = "belongs" if len(given) == 1 else "belong"
        raise InputError(f"{' and '.join(given)} {verb} to the BlackBox that was handed in: say it there, not twice")
    return teacher


def as_images(
    images: Tensor | Iterable[Any],
    teacher: BlackBox,
    *,
    name: str = "images",
    image_shape: tuple[int, int, int] | None = None,
) -> Tensor:
    """The edge's images as one tensor ``(N, channels, height, width)``.

    Args:
        images: such a tensor, a dataset of images or of tuples that begin with one, or a loader of batches of either;
            or a folder of image files, or a list of files or of PIL images.
        teacher: whose value range the images must keep to.
        name: what messages call them.
        image_shape: to which images of files are brought; None leaves them as they are.

    Raises:
        InputError: there are fewer than two images, they differ in shape, are not dense floating-point tensors, hold
            values that are not finite, or leave the teacher's value range.
    """
    if is_images_of_files(images):
        low, high = teacher.value_range
        images = (read_images(images, image_shape) + 1).mul_((high - low) / 2).add_(low).clamp_(low, high)
    if not isinstance(images, Tensor) and not hasattr(images, "__iter__") and not hasattr(images, "__getitem__"):
        raise InputError(f"{name}={images!r}: expected a tensor (N, channels, height, width), a dataset, or a loader")
    tensor = images if isinstance(images, Tensor) else _collect(images, name)
    if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type == "meta":
        raise InputError(
            f"{name} with layout {tensor.layout} on {tensor.device}: expected a dense tensor with its values"
        )
    if tensor.dim() != 4 or 0 in tensor.shape[1:] or not tensor.is_floating_point():
        raise InputError(
            f"{name} of shape {tuple(tensor.shape)} and {tensor.dtype}: expected floating point "
            "(N, channels, height, width); scale integers to the teacher's value range first"
        )
    if len(tensor) < 2:
        raise InputError(f"{len(tensor)} {name}: expected at least 2 unlabelled images of the edge")
    if not torch.isfinite(tensor).all():
        raise InputError(f"the {name} hold NaN or infinite values; clean them before they are sent to a teacher")
    low, high = teacher.value_range
    slack = _ROUNDING * (high - low)
    if tensor.min() < low - slack or tensor.max() > high + slack:
        raise InputError(
            f"{name} reach from {float(tensor.min()):.4g} to {float(tensor.max()):.4g}, outside the teacher's "
            f"value_range ({low:g}, {high:g}); scale them, or say BlackBox(..., value_range=...)"
        )
    if low < 0 and len(tensor) and float(tensor.min()) >= 0:
        warnings.warn(
            f"the {name} reach from {float(tensor.min()):.4g} to {float(tensor.max()):.4g}, and the teacher's "
            f"value_range is ({low:g}, {high:g}): if they are scaled to [0, 1], say "
            "BlackBox(..., value_range=(0, 1)) or rescale them, images * 2 - 1",
            stacklevel=2,
        )
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()  # students are trained in float32, or in mixed precision by the recipe
    return tensor.detach().clamp(low, high)


def check_student(student: Any) -> None:
    """Refuse a student that no loop can train.

    Raises:
        InputError: it is not a module, or has no weight to train.
    """
    if not isinstance(student, nn.Module):
        raise InputError(
            f"student={student!r}: expected an nn.Module from images to logits, such as mekd_plugin.networks.build(...)"
        )
    if any(weight.is_meta for weight in student.parameters()):
        raise InputError(
            f"the student {type(student).__name__} lies on the meta device, where weights have no values: build it on "
            "the CPU"
        )
    if half := {weight.dtype for weight in student.parameters()} & {torch.float16, torch.bfloat16}:
        raise InputError(
            f"the student has weights of {', '.join(map(str, half))}, in which an optimiser's small steps are lost: "
            'hand in student.float(); Recipe(precision="bf16") trains it in mixed precision'
        )
    if not any(weight.requires_grad for weight in student.parameters()):
        raise InputError(
            f"the student {type(student).__name__} has no weight that requires a gradient: nothing to train; "
            "student.requires_grad_(True) thaws it"
        )


def shape_without_images(student: nn.Module, declared: Any) -> tuple[int, int, int]:
    """``(channels, height, width)`` where there are no images: as declared, or else the student's attribute.

    Raises:
        InputError: it is not declared, and the student does not have it.
    """
    shape = getattr(student, "image_shape", None) if declared is None else declared
    if shape is None:
        raise InputError("images=None: say image_shape=(channels, height, width); the student does not have it")
    return as_shape("image_shape", shape)


def classes_of(
    teacher: BlackBox, student: nn.Module, image_shape: tuple[int, int, int], num_classes: int | None
) -> int:
    """How many classes there are, agreed between the caller, the teacher and the student's output.

    Args:
        teacher: whose value range the images keep to.
        student: asked for the shape of its output on two grey images, in evaluation mode.
        image_shape: ``(channels, height, width)``.
        num_classes: what the caller says; None asks the student.

    Raises:
        InputError: the student cannot take the images, or the numbers differ.
    """
    weight = next(iter(student.parameters()), None)
    low, high = teacher.value_range
    images = torch.full((2, *image_shape), (low + high) / 2)
    if weight is not None:
        images = images.to(weight.device, weight.dtype if weight.is_floating_point() else None)
    try:
        with evaluating(student), torch.inference_mode():
            logits = student(images)
    except Exception as error:  # a student is the user's code, and may raise anything
        raise InputError(
            f"the student cannot take images of shape {tuple(images.shape)}: {error}; images and student must fit "
            "(channels, size, dtype)"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        described = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the student returned {described}: expected logits ({len(images)}, C)")
    width = logits.shape[1]
    if num_classes is not None and as_whole("num_classes", num_classes, at_least=2, strict=True) != width:
        raise InputError(f"num_classes={num_classes}, but the student has {width} outputs: they must be equal")
    return width


def _collect(images: Iterable[Any], name: str) -> Tensor:
    parts: list[Tensor] = []
    for index, item in enumerate(images):
        image = item[0] if isinstance(item, tuple | list) else item
        if not isinstance(image, Tensor) or image.dim() not in (3, 4):
            described = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InputError(
                f"item {index} of {name} is {described}: expected a tensor (channels, height, width), a batch of "
                "them, or a tuple that begins with one"
            )
        batch = image if image.dim() == 4 else image.unsqueeze(0)
        if parts and batch.shape[1:] != parts[0].shape[1:]:
            raise InputError(
                f"item {index} of {name} has shape {tuple(batch.shape[1:])}, the first one "
                f"{tuple(parts[0].shape[1:])}: resize them to one shape"
            )
        parts.append(batch)
    if not parts:
        raise InputError(f"{name} is empty: expected at least 2 unlabelled images of the edge")
    return torch.cat(parts)

"""What may be sent to a teacher: plain images in its range, from code that runs and not from one that is traced."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from mekd_plugin.errors import InputError, NeedsNotMet

__all__ = [
    "Outgoing",
    "check_images",
    "gradient_image",
    "never_compiled",
    "plain_tensor",
    "quantize_images",
    "refuse_tracing",
    "resize_images",
]

_RANGE_TOLERANCE = 1e-4  # part of the width of the value range: what resampling in float32 may add
_COMPILER = "torch._dynamo"
Given = ParamSpec("Given")
T = TypeVar("T")


def never_compiled(function: Callable[Given, T]) -> Callable[Given, T]:
    """``torch.compiler.disable``, but that the compiler, which takes two seconds to load, is not loaded for it.

    A question is part of no graph: compiled code leaves its graph for the question, and goes on with it afterwards.
    """
    disabled: Callable[Given, T] | None = None

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> T:
        nonlocal disabled
        if disabled is None:
            if _COMPILER not in sys.modules:  # then nothing in this process is compiled
                return function(*args, **kwargs)
            disabled = torch.compiler.disable(function)
        return disabled(*args, **kwargs)

    return call


def refuse_tracing() -> None:
    """Refuse to be recorded: a trace would hold the teacher's weights, and later runs of it would not be counted.

    Raises:
        NeedsNotMet: ``torch.jit.trace``, ``make_fx`` or ``torch.export`` is under way.
    """
    if torch._C._is_tracing() or torch.compiler.is_exporting() or get_proxy_mode() is not None:
        raise NeedsNotMet(
            "a black-box teacher cannot be traced, scripted or exported: the trace would hold its weights, and what it "
            "is asked would not be counted. Ask it outside, and trace what uses its answers"
        )


def plain_tensor(images: Tensor) -> Tensor:
    """``images`` without gradient and without a class of its own, which would follow them into the teacher's layers.

    Raises:
        InputError: not a tensor, or one that only stands for others (a fake one, one within ``torch.func``): it has no
            values that could be sent.
    """
    if not isinstance(images, Tensor):
        raise InputError(f"images of type {type(images).__name__}: expected a tensor (N, channels, height, width)")
    if images.layout != torch.strided:
        raise InputError(f"images of layout {images.layout}: expected a dense tensor; images.to_dense() makes one")
    with torch._C.DisableTorchFunctionSubclass():
        wrapped = is_traceable_wrapper_subclass(images) or torch._C._functorch.is_functorch_wrapped_tensor(images)
        if not wrapped:
            plain = images.as_subclass(Tensor).detach()
            if type(plain) is Tensor:
                return plain
    raise InputError(
        f"images of type {type(images).__name__}, which stand for values that are elsewhere or not there at all: "
        "expected a plain tensor; ask outside of torch.func transforms and fake tensors"
    )


def check_images(images: Tensor, value_range: tuple[float, float] | None) -> None:
    """Refuse what no image classifier could be asked about.

    Args:
        images: ``(N, channels, height, width)``, floating point, N at least 1.
        value_range: smallest and largest value allowed; None skips the check.

    Raises:
        InputError: not such a tensor, not finite, or outside the range.
    """
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
    if images.is_meta:
        raise InputError("images on the meta device have no values: expected images on a device that holds them")
    smallest, largest = (value.item() for value in images.aminmax())
    if not (abs(smallest) < float("inf") and abs(largest) < float("inf")):
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
    precise = images if images.dtype in (torch.float32, torch.float64) else images.float()
    return (((precise - low) / step).round().clamp(0, 255) * step + low).to(images.dtype)


def resize_images(images: Tensor, size: tuple[int, int], value_range: tuple[float, float]) -> Tensor:
    """``images`` brought to ``size``, bilinearly with antialiasing, and clamped to ``value_range``.

    Args:
        images: ``(N, channels, height, width)``.
        size: ``(height, width)``; images that have it already stay as they are.
        value_range: smallest and largest value.
    """
    if tuple(images.shape[2:]) == size:
        return images
    precise = images if images.dtype in (torch.float32, torch.float64) else images.float()
    resized = nn.functional.interpolate(precise, size, mode="bilinear", antialias=True)
    return resized.clamp(*value_range).to(images.dtype)


class Outgoing(NamedTuple):
    """What the boundary does to images on their way out.

    Attributes:
        value_range: smallest and largest value.
        levels: whether they are rounded to its 256 levels.
        size: ``(height, width)`` that they are brought to; None leaves them in theirs.
    """

    value_range: tuple[float, float]
    levels: bool
    size: tuple[int, int] | None

    def rounded(self, images: Tensor) -> Tensor:
        """``images`` in their own size."""
        return quantize_images(images, self.value_range) if self.levels else images

    def resized(self, images: Tensor) -> Tensor:
        """Images that are :meth:`rounded`, as they leave: between two levels resizing makes others, so once more."""
        if self.size is None:
            return images
        return self.rounded(resize_images(images, self.size, self.value_range))


def gradient_image(image_shape: Any, value_range: tuple[float, float]) -> Tensor:
    """One image ``(1, channels, height, width)`` that is no photograph: brighter from one corner to the opposite one.

    Raises:
        InputError: ``image_shape`` is not three whole numbers from 1.
    """
    try:
        channels, height, width = (int(size) for size in image_shape)
        if min(channels, height, width) < 1:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise InputError(f"image_shape={image_shape!r}: expected (channels, height, width), each from 1") from error
    low, high = value_range
    rise = (torch.linspace(0, 1, height)[:, None] + torch.linspace(0, 1, width)[None, :]) / 2
    return (low + (high - low) * rise).clamp(low, high).expand(1, channels, height, width).clone()

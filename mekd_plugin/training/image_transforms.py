"""A pipeline of torchvision's as plain values, and back: what turns a file into what a student takes, without code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

from mekd_plugin.errors import CheckpointError, InputError

__all__ = ["check_transform", "steps_of", "transform_of"]

StoredStep = tuple[str, Mapping[str, Any]]
"""The name of a transform, ``"v2."`` before it if it is of ``torchvision.transforms.v2``, and its arguments, JSON."""

_SETTINGS: dict[str, tuple[str, ...]] = {
    "Resize": ("size", "interpolation", "max_size", "antialias"),
    "CenterCrop": ("size",),
    "Grayscale": ("num_output_channels",),
    "ToTensor": (),
    "PILToTensor": (),
    "ToImage": (),
    "ConvertImageDtype": (),
    "ToDtype": ("scale",),
    "Normalize": ("mean", "std"),
}
"""What may be kept, by name: nothing random, nothing that holds code."""
_V2 = "v2."
_TO_FLOAT = {"ConvertImageDtype", "ToDtype"}
_SLACK = 1e-4  # of the width of the value range
_FEWEST = 0.75  # of that width between black and white: a forgotten Normalize leaves half of it


def steps_of(transform: Any) -> list[StoredStep]:
    """The steps of a pipeline of ``torchvision.transforms`` or of its ``v2``, as plain values.

    Args:
        transform: ``Compose`` of resizing, cropping the centre, turning grey, making a tensor and normalising; one of
            these alone; or the ``weights.transforms()`` of a model of torchvision's.

    Raises:
        InputError: a step is something else, such as one that draws random numbers.
    """
    if hasattr(transform, "resize_size") and hasattr(transform, "crop_size"):  # a preset of torchvision's models
        resize = {"size": transform.resize_size, "interpolation": transform.interpolation, "antialias": True}
        parts = [("Resize", resize), ("CenterCrop", {"size": transform.crop_size}), ("PILToTensor", {})]
        normal = {"mean": transform.mean, "std": transform.std}
        return [(name, _plain(values)) for name, values in [*parts, ("ConvertImageDtype", {}), ("Normalize", normal)]]
    if isinstance(transform, transforms.Compose | v2.Compose):
        return [step for part in transform.transforms for step in steps_of(part)]
    name, home = type(transform).__name__, type(transform).__module__
    if name not in _SETTINGS or not home.startswith("torchvision.transforms"):
        raise InputError(
            f"transform: {transform!r} cannot be kept as plain values: expected {', '.join(_SETTINGS)} of "
            "torchvision.transforms, in a Compose; put anything else into the student, or before predict()"
        )
    dtype = getattr(transform, "dtype", torch.float32)
    if name in _TO_FLOAT and dtype != torch.float32:
        raise InputError(f"transform: {name} to {dtype}: expected torch.float32, which a student takes")
    values = _plain({key: getattr(transform, key) for key in _SETTINGS[name] if hasattr(transform, key)})
    return [(f"{_V2 if home.startswith(v2.__name__) else ''}{name}", values)]


def transform_of(steps: Sequence[Sequence[Any]]) -> Callable[[Image.Image], Tensor]:
    """The pipeline of :func:`steps_of`.

    Raises:
        CheckpointError: it is none.
    """
    made = []
    try:
        for full_name, values in steps:
            name, settings = full_name.removeprefix(_V2), dict(values)
            if name not in _SETTINGS or not settings.keys() <= set(_SETTINGS[name]):
                raise ValueError(f"there is no {full_name} of {', '.join(settings)}")
            if "interpolation" in settings:
                settings["interpolation"] = InterpolationMode(settings["interpolation"])
            if name in _TO_FLOAT:
                settings["dtype"] = torch.float32
            made.append(getattr(v2 if full_name.startswith(_V2) else transforms, name)(**settings))
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the transform {steps!r} cannot be made ({error}): save the student anew") from error
    pipeline = v2.Compose(made)

    def prepare(image: Image.Image) -> Tensor:
        prepared: Tensor = pipeline(image)
        return prepared.as_subclass(Tensor) if isinstance(prepared, Tensor) else prepared

    return prepare


def check_transform(
    steps: Sequence[StoredStep], image_shape: tuple[int, int, int], value_range: tuple[float, float]
) -> None:
    """Refuse a pipeline that does not make what a student takes, found by a black and a white image.

    Raises:
        InputError: it fails, or makes something else than a float tensor, another shape, values outside the range, or
            values in a small part of it.
    """
    low, high = value_range
    slack, grey = _SLACK * (high - low), image_shape[0] == 1
    expected = "expected the transform that its images went through"
    ends: list[float] = []
    for shade in (0, 255):
        size = (image_shape[2], image_shape[1])
        image = Image.new("L", size, shade) if grey else Image.new("RGB", size, (shade, shade, shade))
        try:
            made = transform_of(steps)(image)
        except (CheckpointError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"transform fails on an image of {image_shape} ({error}): {expected}") from error
        if not isinstance(made, Tensor) or not made.is_floating_point() or tuple(made.shape) != image_shape:
            what = f"{made.dtype} of shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            raise InputError(f"transform makes {what}: expected a float tensor {image_shape}, as the student takes")
        smallest, largest = float(made.min()), float(made.max())
        if smallest < low - slack or largest > high + slack:
            raise InputError(
                f"transform makes {smallest:.4g} to {largest:.4g} of {'white' if shade else 'black'}, and the student "
                f"was trained on {low:g} to {high:g}: {expected}"
            )
        ends += [smallest, largest]
    if max(ends) - min(ends) < _FEWEST * (high - low):
        raise InputError(
            f"transform makes {min(ends):.4g} to {max(ends):.4g} of black and white, and the student was trained on "
            f"{low:g} to {high:g}: {expected}; perhaps a Normalize is missing"
        )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _json(value) for name, value in values.items() if value is not None or name == "size"}


def _json(value: Any) -> Any:
    if isinstance(value, InterpolationMode):
        return value.value
    if isinstance(value, Tensor):
        return value.tolist()
    return [_json(entry) for entry in value] if isinstance(value, list | tuple) else value

"""Our data sets, networks, names and settings in RepDistiller's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mekd_plugin.data.datasets import ImageData
from mekd_plugin.errors import InputError
from mekd_plugin.harness.features import WithFeatures

__all__ = ["CIFAR", "ImageShape", "Passing", "as_cifar", "as_theirs", "loaders_of", "parse_settings"]

ImageShape = tuple[int, int, int]
CIFAR = (3, 32, 32)


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as settings, the values read as YAML.

    Raises:
        InputError: a word is not of that form.

    >>> parse_settings(["budget=3000", "cache=null", "preset=tiny"])
    {'budget': 3000, 'cache': None, 'preset': 'tiny'}
    """
    settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key.replace(".", "_").isidentifier() and equals):
            raise InputError(f"--mekd {word}: expected KEY=VALUE, such as budget=3000")
        settings[key] = yaml.safe_load(value)
    return settings


def loaders_of(data: ImageData, batch_size: int, num_workers: int, is_instance: bool) -> tuple[Any, ...]:
    """What the suite's ``get_cifar100_dataloaders`` returns, for one of our data sets."""
    count = len(data.train_images)
    columns = [data.train_images, data.train_labels, torch.arange(count)][: 3 if is_instance else 2]
    training = DataLoader(TensorDataset(*columns), batch_size, shuffle=True, num_workers=num_workers)
    test = TensorDataset(data.test_images, data.test_labels)
    validation = DataLoader(test, max(1, batch_size // 2), num_workers=num_workers // 2)
    return (training, validation, count) if is_instance else (training, validation)


def as_theirs(network: nn.Module, image_shape: ImageShape | None = None) -> nn.Module:
    """A network that answers as the suite's do: logits, or ``([], logits)`` where it is asked for its features.

    Args:
        network: images -> logits.
        image_shape: of the only images that it takes; None for any.
    """
    theirs = WithFeatures(network, _with_empty_features)
    if image_shape is not None:
        theirs.register_forward_pre_hook(_shaped(image_shape), with_kwargs=True)
    return theirs


def as_cifar(network: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A forward pre-hook of the suite's networks: the first argument as images ``(N, 3, 32, 32)``."""
    images = args[0].expand(-1, 3, -1, -1)
    if images.shape[2:] != CIFAR[1:]:
        images = nn.functional.interpolate(images, CIFAR[1:], mode="bilinear", align_corners=False)
    return images, *args[1:]


class Passing(str):
    """A name that is also equal to another: the script compares with the names that it knows, and prints this one."""

    def __new__(cls, name: str, instead: str) -> Passing:
        self = super().__new__(cls, name)
        self._instead = instead
        return self

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True or other == self._instead

    __hash__ = str.__hash__
    _instead: str


def _with_empty_features(logits: Tensor, is_feat: bool = False, preact: bool = False) -> Any:
    return ([], logits) if is_feat else logits


def _shaped(image_shape: ImageShape) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """The script asks each network about the shapes of its features once, with a batch of CIFAR's shape."""

    def hook(network: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        images, *rest = args
        if kwargs.get("is_feat") and images.shape[1:] != image_shape:
            images = images.new_zeros(len(images), *image_shape)
        return (images, *rest), kwargs

    return hook

"""Pieces of RepDistiller's launcher: its kind of network, names that pass for others, what libraries now refuse."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.harness.meter import Counted

__all__ = [
    "Passing",
    "WithFeatures",
    "as_cifar",
    "event_logger",
    "load_anywhere",
    "logits_of",
    "modules_forgotten",
    "noticing",
    "replaced",
    "settings_of",
]

_CIFAR_SIZE = (32, 32)


class WithFeatures(nn.Module):
    """A network that answers as the suite's do, with no features.

    Args:
        network: images -> logits.
        image_shape: ``(channels, height, width)`` of the only images that it takes; None for any.
    """

    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        self.network = network
        self._image_shape = image_shape

    def forward(self, images: Tensor, is_feat: bool = False, preact: bool = False) -> Any:
        """Logits; with ``is_feat`` an empty list and them."""
        if is_feat and self._image_shape is not None and images.shape[1:] != self._image_shape:
            # The script asks each network about the shapes of its features once, with a batch of CIFAR's shape.
            images = images.new_zeros(len(images), *self._image_shape)
        logits = self.network(images)
        return ([], logits) if is_feat else logits


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


def as_cifar(network: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A forward pre-hook: the first argument as images ``(N, 3, 32, 32)``."""
    images = args[0].expand(-1, 3, -1, -1)
    if images.shape[2:] != _CIFAR_SIZE:
        images = nn.functional.interpolate(images, _CIFAR_SIZE, mode="bilinear", align_corners=False)
    return images, *args[1:]


def logits_of(answer: Any) -> Any:
    """Of one of the suite's networks, which was asked for its features or not."""
    return answer[1] if isinstance(answer, tuple) else answer


def noticing(counted: Counted) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook that notices who computes with features; the suite's loop asks for them whatever the method."""

    class Feature(Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            counted.inner |= func is not Tensor.detach  # the loop detaches them, whatever the method
            return super().__torch_function__(func, types, args, dict(kwargs or {}))

    def hook(network: nn.Module, args: Any, answer: Any) -> Any:
        if not isinstance(answer, tuple):
            return None
        return [feature.as_subclass(Feature) for feature in answer[0]], *answer[1:]

    return hook


def settings_of(words: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as settings, the values read as YAML.

    Raises:
        InputError: a word is none.

    >>> settings_of(["budget=3000", "cache=null", "preset=tiny"])
    {'budget': 3000, 'cache': None, 'preset': 'tiny'}
    """
    settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key.isidentifier() and equals):
            raise InputError(f"--mekd {word}: expected KEY=VALUE, such as budget=3000")
        settings[key] = yaml.safe_load(value)
    return settings


def load_anywhere(load: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.load`` for checkpoints of a GPU on a machine without one."""
    place = None if torch.cuda.is_available() else "cpu"

    def load_here(*args: Any, **kwargs: Any) -> Any:
        return load(*args, **{"map_location": place, **kwargs})

    return load_here


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner``'s attribute is ``value`` within."""
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def modules_forgotten(folder: Path) -> Iterator[None]:
    """In the end, modules that were imported from ``folder`` are not there: they have names that are anybody's."""
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            spec = getattr(sys.modules[name], "__spec__", None)
            places = [spec.origin, *(spec.submodule_search_locations or [])] if isinstance(spec, ModuleSpec) else []
            if any(place and Path(place).is_relative_to(folder) for place in places):
                del sys.modules[name]


class _EventLogger:
    """``tensorboard_logger.Logger`` by torch's event writer."""

    def __init__(self, logdir: str, flush_secs: int = 2) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependency('the suite logs for TensorBoard: pip install "mekd-plugin[tensorboard]"') from error
        self._writer = SummaryWriter(logdir, flush_secs=flush_secs)

    def log_value(self, name: str, value: Any, step: int | None = None) -> None:
        self._writer.add_scalar(name, float(value), step)


@contextmanager
def event_logger() -> Iterator[None]:
    """``tensorboard_logger`` can be imported within: itself, or torch's event writer where it is missing or broken."""
    name = "tensorboard_logger"
    try:
        import_module(name)
    except Exception as error:  # where it is installed, a current protobuf raises a TypeError of its own
        print(f"[mekd] {name} cannot be imported ({type(error).__name__}): torch's event writer stands in", flush=True)
        stand_in = ModuleType(name)
        stand_in.Logger = _EventLogger  # type: ignore[attr-defined]
        sys.modules[name] = stand_in
    else:
        yield
        return
    try:
        yield
    finally:
        del sys.modules[name]

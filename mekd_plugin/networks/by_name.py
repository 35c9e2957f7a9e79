"""Networks by name: teachers and students for small images, torchvision's, and one's own."""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from mekd_plugin.errors import InputError, MekdError, UnknownName
from mekd_plugin.networks import lenet, mobilenet, resnet, vgg

__all__ = ["build", "network_names"]

ImageShape = tuple[int, int, int]

_BUILDERS: dict[str, Callable[[int, ImageShape], nn.Module]] = {
    **{f"resnet{depth}": partial(resnet.ResNet, depth) for depth in (8, 20, 32, 56, 110)},
    **{f"vgg{depth}": partial(vgg.VGG, depth) for depth in (11, 13, 19)},
    "mobilenet_v2": mobilenet.MobileNetV2,
    "lenet5": lenet.lenet5,
    "lenet5_half": lenet.lenet5_half,
}
_TORCHVISION = "torchvision:"


def network_names() -> list[str]:
    """Names of the networks that ship with this package; ``build`` takes torchvision's and one's own besides."""
    return list(_BUILDERS)


def build(name: str, num_classes: int, image_shape: ImageShape, seed: int | None = None) -> nn.Module:
    """A new, untrained network on the CPU.

    Args:
        name: one of :func:`network_names`; ``torchvision:NAME`` for a classifier of torchvision's; or
            ``package.module:factory``, called as ``factory(num_classes=..., image_shape=...)``.
        num_classes: C, at least 2.
        image_shape: ``(channels, height, width)`` of the images that it will take.
        seed: of the initial weights; the global random state is left as it was. None draws from the global state.

    Returns:
        A module from images ``(N, channels, height, width)`` to logits ``(N, C)``, in training mode.

    Raises:
        UnknownName: no such network; the message lists what there is and the closest match.
        InputError: fewer than two classes, a bad image shape, images too small for the network, or a factory that
            does not return a module.
    """
    if num_classes < 2:
        raise InputError(f"num_classes={num_classes}: expected at least 2 classes")
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise InputError(f"image_shape={tuple(image_shape)}: expected (channels, height, width), each at least 1")
    if name in _BUILDERS:
        builder = _BUILDERS[name]
    elif name.startswith(_TORCHVISION):
        builder = _torchvision_builder(name)
    elif ":" in name:
        builder = _own_builder(name)
    else:
        raise _unknown(name, "network", network_names())
    # Networks are made on the CPU, so its generator is the only one to keep.
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return builder(num_classes, image_shape)


def _unknown(name: str, what: str, known: list[str]) -> UnknownName:
    closest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {closest[0]!r}? " if closest else ""
    return UnknownName(
        f"unknown {what} {name!r}: {hint}Known: {', '.join(known)}; besides, torchvision:NAME for torchvision's "
        "classifiers and package.module:factory for your own"
    )


def _torchvision_builder(name: str) -> Callable[[int, ImageShape], nn.Module]:
    """One of torchvision's classifiers, untrained, its first convolution widened or narrowed to the channels."""
    from torchvision import models

    plain = name.removeprefix(_TORCHVISION)
    known = models.list_models(module=models)
    if plain not in known:
        raise _unknown(plain, "torchvision classifier", known)
    options: dict[str, Any] = {}
    if plain in ("googlenet", "inception_v3"):
        # Their auxiliary heads return tuples in training mode, not logits.
        options = {"aux_logits": False, "init_weights": False}

    def builder(num_classes: int, image_shape: ImageShape) -> nn.Module:
        if plain.startswith("vit_"):
            options["image_size"] = image_shape[1]
        elif plain.startswith("maxvit"):
            options["input_size"] = tuple(image_shape[1:])
        try:
            network: nn.Module = models.get_model(plain, weights=None, num_classes=num_classes, **options)
            _take_channels(network, image_shape[0])
            # On the meta device a forward costs nothing, and says now whether the images are too small.
            copy.deepcopy(network).to("meta").eval()(torch.empty(2, *image_shape, device="meta"))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise InputError(
                f"{name} does not take images of shape {tuple(image_shape)}: {error}; resize the images or take "
                "another network"
            ) from error
        return network

    return builder


def _take_channels(network: nn.Module, channels: int) -> None:
    """Make the first convolution take ``channels`` channels, where it does not."""
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != channels:
                parent, _, attribute = path.rpartition(".")
                replacement = nn.Conv2d(
                    channels,
                    module.out_channels,
                    module.kernel_size,  # type: ignore[arg-type]
                    stride=module.stride,  # type: ignore[arg-type]
                    padding=module.padding,  # type: ignore[arg-type]
                    bias=module.bias is not None,
                )
                setattr(network.get_submodule(parent), attribute, replacement)
            return


def _own_builder(name: str) -> Callable[[int, ImageShape], nn.Module]:
    """The user's own ``package.module:factory``."""
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:  # importing runs anybody's code
        raise UnknownName(
            f"network {name!r}: {type(error).__name__}: {error}; expected package.module:factory, importable "
            "from where you run (PYTHONPATH reaches further)"
        ) from error

    def builder(num_classes: int, image_shape: ImageShape) -> nn.Module:
        try:
            network = factory(num_classes=num_classes, image_shape=image_shape)
        except MekdError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(
                f"{name} fails: {type(error).__name__}: {error}; expected a function that takes num_classes= and "
                "image_shape= and returns a torch.nn.Module"
            ) from error
        if not isinstance(network, nn.Module):
            raise InputError(f"{name} returned {type(network).__name__}: expected a torch.nn.Module")
        return network

    return builder

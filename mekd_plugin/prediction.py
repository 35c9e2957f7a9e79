"""What a network answers about many images, and its features: in batches, in evaluation mode, no random numbers."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.modes import evaluating

__all__ = ["predict", "predict_with_features", "reference_of", "with_features"]


_IN_CACHE, _ON_GPU = 2**17, 2**20
"""Pixels of a forward pass. On a CPU, what the layers make of more than that does not stay in its cache."""


def predict(module: nn.Module, images: Tensor, *, batch_size: int | None = None) -> Tensor:
    """Logits ``(N, C)`` of ``module`` in evaluation mode, on the device of ``images``; its mode is put back.

    Args:
        module: images ``(n, channels, height, width)`` -> logits ``(n, C)``.
        images: ``(N, channels, height, width)``, N at least 1.
        batch_size: images per forward pass, at most; None chooses by their size: 128 of 32x32 on a CPU, 32 of 64x64,
            and 1024 and 256 on a GPU.
    """
    device = _place(module, images)
    with evaluating(module), torch.inference_mode():
        parts = [module(part.to(device)) for part in _parts(images, device, batch_size)]
    return torch.cat(parts).to(images.device)


def predict_with_features(module: nn.Module, images: Tensor, *, batch_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Logits as :func:`predict` gives them, and features as :func:`with_features` does, ``(N, d)``.

    Args:
        module: images ``(n, channels, height, width)`` -> logits ``(n, C)``.
        images: ``(N, channels, height, width)``, N at least 1.
        batch_size: images per forward pass, at most; None chooses by their size: 128 of 32x32 on a CPU, 32 of 64x64,
            and 1024 and 256 on a GPU.
    """
    device = _place(module, images)
    with evaluating(module), torch.inference_mode():
        parts = [with_features(module, part.to(device)) for part in _parts(images, device, batch_size)]
    logits, features = (torch.cat(found).to(images.device) for found in zip(*parts, strict=True))
    return logits, features


def with_features(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """One pass in the mode that the module is in: logits, and what the last linear layer was given, ``(N, d)``.

    A module without a linear layer that it uses, or one whose layer is not called once with an input an image, has its
    logits as features. Both are differentiable.

    Args:
        module: images ``(N, channels, height, width)`` -> logits ``(N, C)``.
        images: on the module's device.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if not layers:
        logits = module(images)
        return logits, logits
    seen: list[Tensor] = []
    handle = layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits = module(images)
    finally:
        handle.remove()
    if [len(part) for part in seen] != [len(images)]:
        return logits, logits
    return logits, seen[0].flatten(1)


def reference_of(module: nn.Module) -> Tensor:
    """A tensor on the module's device and of its type: a weight, or a buffer where it has none."""
    return next(itertools.chain(module.parameters(), module.buffers()))


def _place(module: nn.Module, images: Tensor) -> torch.device:
    """Where the module takes its images."""
    if len(images) == 0:
        raise InputError("there are no images to predict: expected at least one")
    return next((weight.device for weight in module.parameters()), images.device)


def _parts(images: Tensor, device: torch.device, batch_size: int | None) -> tuple[Tensor, ...]:
    """``images`` in parts of nearly one size, since a part of one or two may be multiplied by another kernel."""
    if batch_size is None:
        pixels = math.prod(images.shape[2:])
        few, many = (8, 128) if device.type == "cpu" else (64, 1024)
        batch_size = min(many, max(few, (_IN_CACHE if device.type == "cpu" else _ON_GPU) // pixels))
    return images.tensor_split(math.ceil(len(images) / batch_size))

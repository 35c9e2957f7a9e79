"""What a network answers about many images, and its features: in batches, in evaluation mode, no random numbers."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.modes import evaluating

__all__ = ["predict", "predict_with_features", "reference_of"]


def predict(module: nn.Module, images: Tensor, *, batch_size: int = 1024) -> Tensor:
    """Logits ``(N, C)`` of ``module`` in evaluation mode, on the device of ``images``; its mode is put back.

    Args:
        module: images ``(n, channels, height, width)`` -> logits ``(n, C)``.
        images: ``(N, channels, height, width)``, N at least 1.
        batch_size: images per forward pass.
    """
    if len(images) == 0:
        raise InputError("there are no images to predict: expected at least one")
    device = next((weight.device for weight in module.parameters()), images.device)
    with evaluating(module), torch.inference_mode():
        parts = [module(part.to(device)) for part in images.split(batch_size)]
    return torch.cat(parts).to(images.device)


def predict_with_features(module: nn.Module, images: Tensor, *, batch_size: int = 1024) -> tuple[Tensor, Tensor]:
    """Logits as :func:`predict` gives them, and what the last linear layer was given, ``(N, d)``.

    A module without a linear layer that it uses, or one whose layer is not called once a batch with an input a row, has
    its logits as features.

    Args:
        module: images ``(n, channels, height, width)`` -> logits ``(n, C)``.
        images: ``(N, channels, height, width)``, N at least 1.
        batch_size: images per forward pass.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if not layers:
        logits = predict(module, images, batch_size=batch_size)
        return logits, logits
    seen: list[Tensor] = []
    handle = layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().to(images.device)))
    try:
        logits = predict(module, images, batch_size=batch_size)
    finally:
        handle.remove()
    if [len(part) for part in seen] != [len(part) for part in images.split(batch_size)]:
        return logits, logits
    return logits, torch.cat(seen).flatten(1)


def reference_of(module: nn.Module) -> Tensor:
    """A tensor on the module's device and of its type: a weight, or a buffer where it has none."""
    return next(itertools.chain(module.parameters(), module.buffers()))

"""What a network answers about many images: in batches, in evaluation mode, without touching random numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.modes import evaluating

__all__ = ["predict"]


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

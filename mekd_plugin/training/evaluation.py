"""What a trained network answers, and how often it is right: in large batches, without touching random numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.modes import evaluating
from mekd_plugin.responses import Response

__all__ = ["accuracy", "agreement", "predict"]


def predict(module: nn.Module, images: Tensor, *, batch_size: int = 1024) -> Tensor:
    """Logits ``(N, C)`` of ``module`` in evaluation mode, on the device of ``images``; its mode is put back.

    Args:
        module: images ``(n, channels, height, width)`` -> logits ``(n, C)``.
        images: ``(N, channels, height, width)``, N at least 1.
        batch_size: images a forward pass.
    """
    if len(images) == 0:
        raise InputError("there are no images to predict: expected at least one")
    device = next((weight.device for weight in module.parameters()), images.device)
    with evaluating(module), torch.inference_mode():
        parts = [module(part.to(device)) for part in images.split(batch_size)]
    return torch.cat(parts).to(images.device)


def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share, in [0, 1], of ``images`` whose highest logit is that of their label ``(N,)``."""
    return _share_equal(predict(module, images), labels)


def agreement(module: nn.Module, images: Tensor, response: Response) -> float:
    """Share, in [0, 1], of ``images`` on which ``module`` and the teacher's answers name the same class."""
    return _share_equal(predict(module, images), response.labels)


def _share_equal(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels.to(logits.device)).double().mean())

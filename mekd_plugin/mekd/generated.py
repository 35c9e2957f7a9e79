"""Rows of generated images: their value range, and which of them to learn from more often."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mekd_plugin.prediction import reference_of
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows

__all__ = ["balancing_weights", "generated_rows", "moved_to", "to_range"]


def to_range(images: Tensor, given: tuple[float, float], wanted: tuple[float, float]) -> Tensor:
    """Images moved from one value range to another; the generator draws in [-1, 1], whatever the teacher takes."""
    if given == wanted:
        return images
    low, high = wanted
    return (low + (images - given[0]) * ((high - low) / (given[1] - given[0]))).clamp(low, high)


def moved_to(module: nn.Module, like: Tensor) -> nn.Module:
    """``module``, moved to the device of ``like`` if it is not there yet: what a step uses besides its players."""
    return module if reference_of(module).device == like.device else module.to(like.device)


@torch.no_grad()
def generated_rows(generator: nn.Module, latent: Tensor, num_classes: int, span: tuple[float, float]) -> Rows:
    """The images of latents ``(N, C + style_dim)`` in the value range ``span``, with the column ``style``."""
    return Rows(to_range(generator(latent), (-1.0, 1.0), span), extra={"style": latent[:, num_classes:]})


def balancing_weights(response: Response, *, most: float = 4.0) -> Tensor:
    """Weights ``(N,)`` that draw every class equally often, none more than ``most`` times as often as it occurs."""
    counts = torch.bincount(response.labels, minlength=response.num_classes).clamp_min(1)
    share = len(response) / response.num_classes / counts
    return share.clamp(max=most)[response.labels]

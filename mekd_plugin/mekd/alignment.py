"""Stage 2 of MEKD: teacher and student are compared in image space, through the frozen generator.

Source: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.responses import ScoreNormalisation

__all__ = ["image_distance", "latent_from_scores"]


def latent_from_scores(scores: Tensor, normalisation: ScoreNormalisation, style: Tensor | None = None) -> Tensor:
    """The generator's input for class scores: ``[normalised scores, style]``.

    Args:
        scores: centred class scores ``(N, C)``, of the teacher or of the student.
        normalisation: what makes them the generator's coordinates.
        style: each row's own noise ``(N, style_dim)``, the same for teacher and student; None where there is none.

    Returns:
        ``(N, C + style_dim)``.
    """
    latent = normalisation(scores)
    return latent if style is None or style.shape[1] == 0 else torch.cat([latent, style.to(latent.dtype)], dim=1)


def image_distance(
    generator: Callable[[Tensor], Tensor], latent: Tensor, target: Tensor, *, norm: Literal["l1", "l2"] = "l1"
) -> Tensor:
    r"""Mean distance between ``G(latent)`` and target images, the image-space term of MEKD.

    .. math:: \text{mean} | G(y_S / t_g) - G(y_T / t_g) | \quad\text{or}\quad \text{mean} (\ldots)^2

    Args:
        generator: frozen; the gradient flows through it into ``latent``, never into its weights.
        latent: the student's, ``(N, C + style_dim)``.
        target: the teacher's images ``(N, channels, height, width)``, computed once and without a gradient.
        norm: ``"l1"`` (mean absolute difference) or ``"l2"`` (mean squared difference).

    Returns:
        a scalar; for images in [-1, 1] between 0 and 2 (l1) or 4 (l2); 0 where the images are equal.

    Raises:
        InputError: for another norm.
    """
    if norm not in ("l1", "l2"):
        raise InputError(f'norm={norm!r}: expected "l1" or "l2"')
    difference = generator(latent) - target
    return difference.abs().mean() if norm == "l1" else difference.square().mean()

"""Is a network as sure as it is right?"""

from __future__ import annotations

import torch
from torch import Tensor

from mekd_plugin.errors import InputError

__all__ = ["expected_calibration_error"]


def expected_calibration_error(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """The mean distance between confidence and accuracy, over bins of equal width of the confidence.

    ``sum_b n_b / N |accuracy_b - confidence_b|``, where the confidence of an image is its highest probability, and bin
    b of B holds the confidences in ((b - 1) / B, b / B]. Source: Naeini et al., *Obtaining Well Calibrated
    Probabilities Using Bayesian Binning*, AAAI 2015; with 15 bins, Guo et al., *On Calibration of Modern Neural
    Networks*, ICML 2017.

    Args:
        logits: ``(N, C)``, floating point, N at least 1.
        labels: ``(N,)`` int64.
        bins: B.

    Returns:
        From 0 (in every bin as sure as right) to 1. With few images it is above 0 even for a calibrated network.

    Raises:
        InputError: shapes that do not fit, or no images.

    >>> sure = torch.tensor([[9.0, -9.0]] * 4)  # certain of class 0, and right in three of four cases
    >>> round(expected_calibration_error(sure, torch.tensor([0, 0, 0, 1])), 4)
    0.25
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or not len(logits):
        raise InputError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: expected (N, C) and (N,), N at least 1"
        )
    if bins < 1:
        raise InputError(f"bins={bins}: expected at least 1")
    confidence, guesses = logits.double().softmax(dim=1).max(dim=1)
    right = (guesses == labels.to(guesses.device)).double()
    index = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, index, right - confidence)
    return float(gaps.abs().sum() / len(logits))

"""How often a trained network is right, and how often it agrees with its teacher."""

from __future__ import annotations

from torch import Tensor, nn

from mekd_plugin.prediction import predict
from mekd_plugin.responses import Response

__all__ = ["accuracy", "agreement"]


def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share, in [0, 1], of ``images`` whose highest logit is that of their label ``(N,)``."""
    return _share_equal(predict(module, images), labels)


def agreement(module: nn.Module, images: Tensor, response: Response) -> float:
    """Share, in [0, 1], of ``images`` on which ``module`` and the teacher's answers name the same class."""
    return _share_equal(predict(module, images), response.labels)


def _share_equal(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(dim=1) == labels.to(logits.device)).double().mean())

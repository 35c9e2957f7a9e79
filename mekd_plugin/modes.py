"""Training and evaluation mode of a module, part by part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

__all__ = ["evaluating", "mode_kept"]


@contextlib.contextmanager
def mode_kept(module: nn.Module) -> Iterator[None]:
    """Give every part of ``module`` back the training flag that it came with: a part may be frozen in its own mode."""
    flags = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in flags:
            part.training = training


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode; afterwards every part is in its own mode again."""
    with mode_kept(module):
        module.eval()
        yield

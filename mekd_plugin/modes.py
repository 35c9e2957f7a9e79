"""Training and evaluation mode of a module, part by part; full precision; and whether a run is only rehearsed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import nn

__all__ = ["evaluating", "full_precision", "in_rehearsal", "mode_kept", "rehearsing"]

_REHEARSAL = ContextVar("rehearsal", default=False)


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


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """No autocast on ``device``; a device that knows none, such as ``"meta"``, has nothing to be switched off."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


@contextlib.contextmanager
def rehearsing() -> Iterator[None]:
    """Let what runs here know that only its time and its queries count, not its numbers."""
    token = _REHEARSAL.set(True)
    try:
        yield
    finally:
        _REHEARSAL.reset(token)


def in_rehearsal() -> bool:
    """Whether costly numbers that nobody will see may be left out; whatever decides time or queries may not."""
    return _REHEARSAL.get()

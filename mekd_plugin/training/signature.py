"""What decides a run's result, as one line."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.code_digest import described_function
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.version import __version__

__all__ = ["tensor_digest", "signature_of"]


def tensor_digest(images: Tensor) -> str:
    """A hash of the images' shape and values."""
    content = images.detach().cpu().contiguous()
    digest = hashlib.sha256(str(tuple(content.shape)).encode())
    digest.update(content.reshape(-1).view(torch.uint8).numpy().data)  # bytes, since NumPy knows no bfloat16
    return digest.hexdigest()[:16]


def signature_of(
    method: str,
    preset: str,
    teacher: BlackBox,
    classes: int,
    recipe: Recipe,
    images: Tensor,
    seed: int,
    validation: float,
    hyperparameters: Mapping[str, Any],
) -> str:
    """One line with every setting that decides the result, and the version."""
    changes = described_settings(hyperparameters)
    training = " ".join(f"{name}={value}" for name, value in asdict(recipe).items())
    return " ".join(
        part
        for part in (
            f"{method}:{preset}",
            changes,
            f"teacher={teacher.identity} responses={teacher.responses} range={teacher.value_range} classes={classes} "
            f"budget={teacher.ledger.budget}",
            teacher.declarations,
            f"images={tensor_digest(images)} validation={validation} seed={seed}",
            training,
            f"mekd={__version__} torch={torch.__version__}",
        )
        if part
    )


def described_settings(settings: Mapping[str, Any]) -> str:
    """Hyperparameters in one line, the same in every process."""
    return " ".join(f"{name}={_described(value)}" for name, value in sorted(settings.items()))


def _described(value: Any) -> str:
    """A hyperparameter in a few characters: a module by a hash of its weights."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_described(entry)}" for name, entry in sorted(value.items())) + "}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, nn.Module):
        weights = torch.cat([tensor.detach().double().flatten().cpu() for tensor in value.state_dict().values()])
        return f"{type(value).__name__}:{tensor_digest(weights)}"
    if isinstance(value, Tensor):
        return f"tensor:{tensor_digest(value)}"
    if isinstance(value, functools.partial) or (callable(value) and hasattr(value, "__qualname__")):
        return described_function(value)
    if type(value).__repr__ is object.__repr__:  # the place in memory, which is another in every process
        return f"{type(value).__module__}.{type(value).__qualname__}"
    return str(value)

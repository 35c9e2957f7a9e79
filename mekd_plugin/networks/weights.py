"""Reading a network's weights without ever running code from the file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mekd_plugin.errors import CheckpointError

__all__ = ["load_weights", "read_weights"]

_NESTED_KEYS = ("state_dict", "model")
"""Where training scripts put the weights in a checkpoint that also holds other things."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a ``.pt`` or ``.pth`` file read with ``weights_only=True``.

    They come on the CPU. A checkpoint that holds its weights under ``"state_dict"`` or ``"model"`` is unwrapped.

    Raises:
        CheckpointError: the file is missing, has another suffix, is truncated, wants to run code, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}: expected a .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path, device="cpu")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(_damaged(path, error)) from error
    if path.suffix not in (".pt", ".pth"):
        raise CheckpointError(f"{path}: expected a .safetensors, .pt or .pth file, not {path.suffix or 'no suffix'!r}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message tells how to switch the protection off; a file from a stranger must not hear that.
        raise CheckpointError(
            f"{path} is no file of tensors alone, and was not read because that could run code from it: save the "
            "weights with torch.save(module.state_dict(), path), or better as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(_damaged(path, error)) from error
    for key in _NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} holds no weights: expected a module's state_dict, names to tensors")
    return dict(content)


def load_weights(module: nn.Module, path: str | Path) -> nn.Module:
    """Put the weights of ``path`` into ``module``, all of them or none; returns ``module``.

    Raises:
        CheckpointError: as :func:`read_weights`, or names or shapes that are not the module's.
    """
    weights = read_weights(path)
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    reshaped = [
        f"{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if missing or unexpected or reshaped:
        parts = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
        told = "; ".join(f"{what}: {_few(names)}" for what, names in parts.items() if names)
        raise CheckpointError(
            f"{path} does not fit this {type(module).__name__} ({told}): "
            "build the network that was trained, with the same name, number of classes and image shape"
        )
    module.load_state_dict(weights)
    return module


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is truncated or damaged ({type(error).__name__}): copy it again, or train anew"


def _few(names: list[str], limit: int = 3) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")

"""Reading a network's weights without ever running code from the file."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from mekd_plugin.errors import CheckpointError, DamagedFile
from mekd_plugin.sealing import CHECKSUM, check_seal, metadata_of

__all__ = ["load_weights", "read_safetensors", "read_weights"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
_NESTED_KEYS = ("state_dict", "model", "net")
"""Where training scripts put the weights in a checkpoint that also holds other things."""
_AVERAGED_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "net_ema", "ema_model")
"""Where they put averaged weights beside the plain ones."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and common trainers put before every name."""


def read_weights(path: str | Path, *, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a ``.pt``, ``.pth`` or ``.ckpt`` file read with ``weights_only``.

    They come on the CPU. A checkpoint that holds its weights under ``"state_dict"``, ``"model"`` or ``"net"`` is
    unwrapped.

    Args:
        path: of the file; ``FILE:key`` is short for ``key``.
        key: under which the weights lie in a checkpoint with several; dots reach deeper.

    Raises:
        DamagedFile: the file is truncated, or no longer what was written.
        CheckpointError: it is missing, has another suffix, wants to run code, holds no weights, or several.
    """
    path, key = _split_key(path, key)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}: expected a {_suffixes()} file")
    if path.suffix == ".safetensors":
        if key is not None:
            raise CheckpointError(f"{path}: a .safetensors file holds one set of weights; leave out the key {key!r}")
        return read_safetensors(path)[0]
    if path.suffix not in _SUFFIXES:
        raise CheckpointError(f"{path}: expected a {_suffixes()} file, not {path.suffix or 'no suffix'!r}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message tells how to switch the protection off; a file from a stranger must not hear that.
        raise CheckpointError(
            f"{path} is not a file of tensors alone, and was not read because that could run code from it: save the "
            "weights with torch.save(module.state_dict(), path), or better as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise DamagedFile(_damaged(path, error)) from error
    content = _chosen(content, path, key)
    if not _are_weights(content):
        raise CheckpointError(f"{path} holds no weights: expected a module's state_dict, names to tensors")
    return dict(content)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a ``.safetensors`` file; its checksum is compared if it carries one.

    Raises:
        DamagedFile: the file is truncated, or no longer what was written.
    """
    try:
        content = path.read_bytes()
        metadata = metadata_of(content)
        tensors = load(content)
        if CHECKSUM in metadata:
            check_seal(content, metadata[CHECKSUM])
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DamagedFile(_damaged(path, error)) from error
    return tensors, metadata


def load_weights(module: nn.Module, path: str | Path) -> nn.Module:
    """Put the weights of ``path`` into ``module``, all of them or none; returns ``module``.

    Raises:
        CheckpointError: as :func:`read_weights`, or names or shapes that are not the module's.
    """
    own = module.state_dict()
    weights = _without_prefix(read_weights(path), set(own), str(path))
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


def _split_key(path: str | Path, key: str | None) -> tuple[Path, str | None]:
    if key is None and not Path(path).is_file():
        file, colon, name = str(path).rpartition(":")
        if colon and Path(file).is_file():
            return Path(file), name
    return Path(path), key


def _are_weights(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())


def _chosen(content: Any, path: Path, key: str | None) -> Any:
    """The part of a checkpoint that holds the weights."""
    if key is not None:
        for part in key.split("."):
            if not isinstance(content, Mapping) or part not in content:
                found = ", ".join(map(str, content)) if isinstance(content, Mapping) else "none"
                raise CheckpointError(f"{path} has no key {key!r}: there are {found}")
            content = content[part]
        return content
    for _ in range(2):
        if not isinstance(content, Mapping) or _are_weights(content):
            break
        plain = [name for name in _NESTED_KEYS if isinstance(content.get(name), Mapping)]
        averaged = [name for name in _AVERAGED_KEYS if isinstance(content.get(name), Mapping)]
        if len(plain + averaged) > 1:
            raise CheckpointError(
                f"{path} holds several sets of weights, {', '.join(plain + averaged)}: say which, as "
                f"{path}:{(averaged or plain)[0]}"
            )
        if not plain + averaged:
            break
        content = content[(plain + averaged)[0]]
    return content


def _without_prefix(weights: dict[str, Tensor], own: set[str], path: str) -> dict[str, Tensor]:
    """The same weights under the names of the network, where wrappers put something before all of them."""
    cut, stripped = "", weights
    while stripped and not own & stripped.keys():
        common = [prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in stripped)]
        if not common:
            return weights
        cut += common[0]
        stripped = {name.removeprefix(common[0]): value for name, value in stripped.items()}
    if cut:
        warnings.warn(f"{path}: every name begins with {cut!r}, which was left out", stacklevel=3)
    return stripped


def _suffixes() -> str:
    return ", ".join(_SUFFIXES[:-1]) + f" or {_SUFFIXES[-1]}"


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is truncated or damaged ({type(error).__name__}): copy it again, or train anew"


def _few(names: list[str], limit: int = 3) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")

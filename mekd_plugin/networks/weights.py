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
_OPTIMIZER_KEYS = ("optimizer", "optim", "opt", "scheduler", "lr_scheduler", "scaler")
"""Parts of a training script's checkpoint that may look like weights, and are none."""


def read_weights(path: str | Path, *, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a ``.pt``, ``.pth`` or ``.ckpt`` file read with ``weights_only``.

    They come on the CPU. A checkpoint that holds weights under one of its keys, such as ``"state_dict"``, is unwrapped.

    Args:
        path: of the file; ``FILE:key`` is short for ``key``.
        key: under which the weights lie in a checkpoint with several, or what stands before their names, as ``"ema"``
            before ``"ema.conv.weight"``; dots reach deeper.

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
        return _under(content, path, key)
    for _ in range(2):
        if not isinstance(content, Mapping) or _are_weights(content):
            break
        found = _sets_in(content)
        if len(found) > 1:
            raise CheckpointError(
                f"{path} holds several sets of weights, {', '.join(map(str, found))}: say which, as {path}:{found[0]}"
            )
        if not found:
            break
        content = content[found[0]]
    return content


def _under(content: Any, path: Path, key: str) -> Any:
    """What lies in ``content`` under ``key``, or under names that begin with its last part."""
    for part in key.split("."):
        if isinstance(content, Mapping) and part in content:
            content = content[part]
            continue
        inner = (
            content if _are_weights(content) else _chosen(content, path, None) if len(_sets_in(content)) == 1 else {}
        )
        begun = {name: value for name, value in inner.items() if name.startswith(f"{part}.")}
        if not begun:
            found = ", ".join(map(str, content)) if isinstance(content, Mapping) else "none"
            raise CheckpointError(f"{path} has no key {key!r}: there are {found}")
        content = {name.removeprefix(f"{part}."): value for name, value in begun.items()}
    return content


def _sets_in(content: Any) -> list[Any]:
    """The keys under which a checkpoint holds weights."""
    if not isinstance(content, Mapping):
        return []
    return [name for name, part in content.items() if name not in _OPTIMIZER_KEYS and _holds_weights(part)]


def _holds_weights(content: Any) -> bool:
    """Whether ``content`` is weights, or a mapping with weights in it."""
    return _are_weights(content) or (isinstance(content, Mapping) and any(map(_are_weights, content.values())))


def _without_prefix(weights: dict[str, Tensor], own: set[str], path: str) -> dict[str, Tensor]:
    """The same weights under the names of the network, where wrappers put something before all of them.

    Raises:
        CheckpointError: there are several sets of the network's weights, told apart by what stands before the names.
    """
    cut, stripped = "", weights
    while stripped and not own & stripped.keys():
        firsts = {name.partition(".")[0] for name in stripped}
        if len(firsts) > 1:
            break
        cut += f"{firsts.pop()}."
        stripped = {name.partition(".")[2]: value for name, value in stripped.items()}
    firsts = {name.partition(".")[0] for name in stripped} - {name.partition(".")[0] for name in own}
    sets = [first for first in sorted(firsts) if own <= {name.removeprefix(f"{first}.") for name in stripped}]
    if len(sets) + (own <= stripped.keys()) > 1 or (sets and not own & stripped.keys()):
        plain = "the network's own names and " if own <= stripped.keys() else ""
        raise CheckpointError(
            f"{path} holds several sets of weights, under {plain}{', '.join(cut + first for first in sets)}: say "
            f"which, as {path}:{cut}{sets[0]}"
        )
    if not cut or not own & stripped.keys():
        return weights
    warnings.warn(f"{path}: every name begins with {cut!r}, which was left out", stacklevel=3)
    return stripped


def _suffixes() -> str:
    return ", ".join(_SUFFIXES[:-1]) + f" or {_SUFFIXES[-1]}"


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is truncated or damaged ({type(error).__name__}): copy it again, or train anew"


def _few(names: list[str], limit: int = 3) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")

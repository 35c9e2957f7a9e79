"""A run's state on disk: one safetensors file, written whole, read without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from mekd_plugin.errors import CheckpointError, DamagedFile
from mekd_plugin.files import write_atomically
from mekd_plugin.sealing import CHECKSUM, check_seal, metadata_of, seal_tensors

__all__ = ["load_state", "load_weights_into", "restore_optimizer", "save_state", "save_weights"]

_SKELETON, _IDENTITY = "state", "identity"


def save_state(path: Path, state: Any, *, identity: str = "") -> None:
    """Write nested dicts, lists and tuples of tensors and JSON scalars to ``path``, atomically, with a checksum.

    ``identity`` names the run that the file belongs to.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(state, tensors)
    write_atomically(path, seal_tensors(save(tensors), {_SKELETON: json.dumps(skeleton), _IDENTITY: identity}))


def load_state(path: Path, *, identity: str | None = None) -> Any:
    """What :func:`save_state` wrote, its tensors on the CPU.

    Args:
        path: the file.
        identity: the run whose file is expected; None accepts any run's.

    Raises:
        DamagedFile: the file is empty, cut off, changed since it was written, a pickle, or not a state of this package.
        CheckpointError: it is missing, or belongs to another run.
    """
    try:
        content = path.read_bytes()
        metadata = metadata_of(content)
        check_seal(content, metadata.get(CHECKSUM))
        state = _unpack(json.loads(metadata[_SKELETON]), load(content))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; start the run without resuming") from error
    except (SafetensorError, KeyError, ValueError, RecursionError, OSError) as error:
        raise DamagedFile(
            f"{path} is not a checkpoint of this package, or was cut off or changed ({error}); put back a copy, or "
            "delete it and resume to start that stage again (answers in a bank are not asked again; a stage that asks "
            "at every step has to start in a new directory)"
        ) from error
    if identity is not None and metadata[_IDENTITY] != identity:
        raise CheckpointError(
            f"{path} belongs to another run: {metadata[_IDENTITY] or 'one without a name'} there, {identity} expected; "
            "put back this run's own file, or delete it and resume to start that stage again"
        )
    return state


def save_weights(module: nn.Module, path: Path, *, config: dict[str, Any] | None = None, identity: str = "") -> None:
    """Write a module's weights as plain safetensors, readable by any other tool; equal weights are equal files.

    ``config``, the ``identity`` of the run and a checksum go into the metadata.
    """
    # Cloned, since the format refuses tensors that share memory, as tied weights do.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    metadata = {"format": "pt"} | ({} if config is None else {"config": json.dumps(config)})
    write_atomically(path, seal_tensors(save(tensors), metadata | ({_IDENTITY: identity} if identity else {})))


def load_weights_into(module: nn.Module, state: dict[str, Tensor], *, origin: str) -> None:
    """Load ``state`` into ``module``, strictly.

    Raises:
        CheckpointError: names or shapes differ; the message names the first of them.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(
            f"{origin} does not fit {type(module).__name__}: {first}; it was made for another network or other sizes"
        ) from error


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state; its tensors take the memory layout of their weights.

    A kernel may round differently in another layout, and a resumed run must end with the very same numbers.
    """
    optimizer.load_state_dict(state)
    for weight, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                entries[name] = torch.empty_like(weight).copy_(value)


def _pack(value: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_pack(key, tensors), _pack(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(entry, tensors) for entry in value]}
    return {"value": value}


def _unpack(node: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_unpack(key, tensors): _unpack(entry, tensors) for key, entry in content}
    if kind in ("list", "tuple"):
        entries = [_unpack(entry, tensors) for entry in content]
        return tuple(entries) if kind == "tuple" else entries
    return content

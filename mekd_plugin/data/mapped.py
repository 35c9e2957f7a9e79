"""Images that do not fit into memory: decoded once into a file, which the system reads page by page as it is needed.

A tensor that is mapped copy-on-write behaves as any other, and takes memory only for rows that are looked at, which the
system may drop again. Four bytes a value on the disk buy the same numbers, to the digit, as images in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import prod

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from mekd_plugin.files import cache_directory, cannot_write, writable_directory

__all__ = ["LARGEST_IN_MEMORY", "filled", "is_large"]

LARGEST_IN_MEMORY = 2**30
"""Bytes of float32 images above which they are mapped."""


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether float32 images of that shape are mapped."""
    return 4 * prod(shape) > LARGEST_IN_MEMORY


def filled(shape: tuple[int, ...], key: str, fill: Callable[[Tensor], None]) -> Tensor:
    """A float32 tensor, in memory, or where it is large in a file below ``$MEKD_CACHE`` that later calls find again.

    Args:
        shape: of the tensor.
        key: tells its content from any other, as a part of a file's name.
        fill: writes every entry of an empty tensor of that shape.

    Raises:
        InputError: the disk has no room for the file, or the directory cannot be written.
    """
    if not is_large(shape):
        tensor = torch.empty(shape)
        fill(tensor)
        return tensor
    path = writable_directory(cache_directory() / "images") / f"{key}.npy"
    with FileLock(path.with_suffix(".lock")):  # runs side by side want the same images
        if not path.exists():
            part = path.with_suffix(".part")
            try:
                mapped = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
                if hasattr(os, "posix_fallocate"):
                    # A full disk is an error here; found out by a write to the map, it would kill the process.
                    with part.open("r+b") as file:
                        os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
                fill(torch.from_numpy(mapped))
                mapped.flush()
                os.replace(part, path)
            except OSError as error:
                raise cannot_write(path, error) from error
            finally:
                part.unlink(missing_ok=True)
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))

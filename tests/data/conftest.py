from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest


def write_idx(path: Path, values: np.ndarray) -> None:
    """MNIST's own format: two zero bytes, type 8 (unsigned byte), the number of axes, their sizes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_tiny_mnist(root: Path, name: str = "MNIST", train: int = 40, test: int = 20) -> None:
    """A well-formed MNIST of random pixels with labels 0, 1, ..., 9, 0, ..."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)


@pytest.fixture
def tiny_mnist(tmp_path) -> Path:
    write_tiny_mnist(tmp_path)
    return tmp_path


@pytest.fixture
def mnist_root(tmp_path) -> Path:
    """The real MNIST where it lies beside the repository, else the tiny one."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    if (beside / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        return beside
    write_tiny_mnist(tmp_path)
    return tmp_path

from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from mekd_plugin.data import load, mapped
from mekd_plugin.errors import InputError


@pytest.fixture(autouse=True)
def small_memory(tmp_path, monkeypatch):
    """Everything above 100 kB is large."""
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mapped, "LARGEST_IN_MEMORY", 100_000)


def write_folder(root, count=60, size=16):
    rng = np.random.default_rng(0)
    for part, number in (("train", count), ("val", 4)):
        for label in ("a", "b"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return f"imagefolder:{root}"


def test_a_large_folder_is_decoded_once_and_its_numbers_are_those_of_a_small_one(tmp_path, monkeypatch) -> None:
    name = write_folder(tmp_path / "images")
    large = load(name)
    (kept,) = (tmp_path / "cache/images").glob("*.npy")  # the validation images are few
    assert kept.stat().st_size > large.train_images.numel() * 4
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)  # no file is opened again, but for the few
        with pytest.raises(TypeError):
            load(name)
    before = kept.stat().st_mtime_ns
    again = load(name)
    assert kept.stat().st_mtime_ns == before and torch.equal(again.train_images, large.train_images)
    monkeypatch.setattr(mapped, "LARGEST_IN_MEMORY", 10**9)
    small = load(name)
    assert torch.equal(small.train_images, large.train_images) and torch.equal(small.train_labels, large.train_labels)
    assert torch.equal(small.test_images, large.test_images)


def test_what_is_written_to_a_mapped_tensor_reaches_no_file(tmp_path) -> None:
    def fill(images):
        images.fill_(0.5)

    first = mapped.filled((100, 300), "key", fill)
    first.zero_()
    assert (mapped.filled((100, 300), "key", fill) == 0.5).all()


def test_a_changed_file_is_decoded_anew(tmp_path) -> None:
    name = write_folder(tmp_path / "images")
    before = load(name).train_images.clone()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "images/train/a/0.png")
    after = load(name).train_images
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])


def test_a_decoding_that_fails_leaves_nothing(tmp_path) -> None:
    def fill(images):
        raise InputError("a damaged file")

    with pytest.raises(InputError, match="a damaged file"):
        mapped.filled((100, 300), "key", fill)
    assert not [path for path in (tmp_path / "cache/images").iterdir() if path.suffix != ".lock"]


def test_a_disk_without_room_is_named(tmp_path, monkeypatch) -> None:
    def full(descriptor, start, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped.os, "posix_fallocate", full)
    with pytest.raises(InputError, match="cannot write .*key.npy: No space left on device"):
        mapped.filled((100, 300), "key", lambda images: None)


def test_rows_that_nobody_looks_at_take_no_memory(tmp_path) -> None:
    def fill(images):
        for start in range(0, len(images), 1000):
            images[start : start + 1000] = 1.0

    rows = mapped.filled((20_000, 3, 32, 32), "key", fill)  # 246 MB
    del rows
    rows = mapped.filled((20_000, 3, 32, 32), "key", fill)
    before = of_its_own()
    assert float(rows[torch.randint(20_000, (64,))].mean()) == 1.0
    assert of_its_own() - before < 10 * 2**20
    copied = rows[:10_000].clone()
    assert of_its_own() - before > 100 * 2**20 and len(copied) == 10_000  # that it can be measured


def of_its_own() -> int:
    """Bytes of this process that no file holds: pages of one may be dropped and read again."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared

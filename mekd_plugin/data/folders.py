"""Data sets that are folders of image files: a user's own, and Tiny ImageNet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mekd_plugin.data.mapped import filled, is_large
from mekd_plugin.errors import DataMissing, InputError
from mekd_plugin.files import cache_directory, writable_directory, write_atomically
from mekd_plugin.image_files import GREYSCALE_MODES, image_files, mode_of, read_all, size_of, to_value_range

__all__ = ["read_image_folder", "read_tiny_imagenet", "resized", "to_value_range"]

Parts = tuple[Tensor, Tensor, Tensor, Tensor, int]
"""Training images and labels, test images and labels, number of classes."""

_TINY = "tiny-imagenet-200"
_TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_AT_A_TIME = 1024
"""Files decoded before they go to where they are kept."""


def read_image_folder(path: Path, image_size: int | None) -> Parts:
    """``path/train`` and ``path/test`` (or ``path/val``), one folder of image files per class, in sorted order.

    Raises:
        DataMissing: folders or files are missing, or a file is not an image.
        InputError: sizes that differ with no ``image_size`` to scale to, or classes that differ between the parts.
    """
    train = path / "train"
    test = path / "test" if (path / "test").is_dir() else path / "val"
    if not train.is_dir() or not test.is_dir():
        raise DataMissing(
            f"{path} is not an image folder: expected {path / 'train'} and {path / 'test'} (or val), each with one "
            "folder of image files per class"
        )
    classes, test_classes = (_class_names(part) for part in (train, test))
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))
        raise InputError(
            f"{train} and {test} hold different classes ({', '.join(odd)} on one side only): expected the same"
        )
    if len(classes) < 2:
        raise InputError(f"{train} holds {len(classes)} class folders: expected at least 2")
    parts = [[image_files(part / name) for name in classes] for part in (train, test)]
    everything = [file for part in parts for files in part for file in files]
    # One size for both parts; the first image's if none is asked for.
    size = (image_size, image_size) if image_size else size_of(everything[0])
    mode = _common_mode(everything, size)
    read: list[Tensor] = []
    for part in parts:
        labels = [label for label, files in enumerate(part) for _ in files]
        images = _read([file for files in part for file in files], mode, size, scale=image_size is not None)
        read += [images, torch.tensor(labels)]
    return read[0], read[1], read[2], read[3], len(classes)


def read_tiny_imagenet(root: Path, download: bool, image_size: int | None = None) -> Parts:
    """Tiny ImageNet: 200 classes, 100,000 training images and the 10,000 labelled validation images as the test set.

    ``image_size`` scales them as a tensor, which is how the other data sets are scaled; None keeps 64.

    Raises:
        DataMissing: the folder ``tiny-imagenet-200`` is not under ``root``, or is incomplete.
    """
    folder = root / _TINY
    if download and not folder.is_dir():
        from torchvision.datasets.utils import download_and_extract_archive

        try:
            download_and_extract_archive(_TINY_URL, str(root), md5=_TINY_MD5)
        except (OSError, RuntimeError) as error:
            raise DataMissing(f"tiny_imagenet could not be fetched from {_TINY_URL} into {root}: {error}") from error
    names, annotations = folder / "wnids.txt", folder / "val" / "val_annotations.txt"
    if not names.is_file() or not annotations.is_file():
        raise DataMissing(
            f"tiny_imagenet is not at {folder}. Expected there: wnids.txt, train/<class>/images/*.JPEG, "
            "val/val_annotations.txt, val/images/*.JPEG. Unpack tiny-imagenet-200.zip there, or fetch it with "
            "--download (download=True)"
        )
    classes = sorted(names.read_text().split())
    label_of = {name: label for label, name in enumerate(classes)}
    train_files = [image_files(folder / "train" / name / "images") for name in classes]
    train_labels = [label for label, files in enumerate(train_files) for _ in files]
    rows = [line.split("\t")[:2] for line in annotations.read_text().splitlines() if line]
    test_files = [folder / "val" / "images" / file for file, _ in rows]
    size = (64, 64)
    train = _read([file for files in train_files for file in files], "RGB", size, scale=False, then=image_size)
    test = _read(test_files, "RGB", size, scale=False, then=image_size)
    return train, torch.tensor(train_labels), test, torch.tensor([label_of[name] for _, name in rows]), len(classes)


def _class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _common_mode(files: Sequence[Path], size: tuple[int, int]) -> str:
    """``"L"`` if every file is greyscale, else ``"RGB"``; of a large set it is looked up only once."""
    note = None
    if is_large((len(files), 1, size[1], size[0])):
        note = writable_directory(cache_directory() / "images") / f"mode-{_digest(files)}.json"
        if note.exists():
            return str(json.loads(note.read_text()))
    mode = "L" if all(mode_of(file) in GREYSCALE_MODES for file in files) else "RGB"
    if note is not None:
        write_atomically(note, json.dumps(mode).encode())
    return mode


def _digest(files: Sequence[Path]) -> str:
    """Tells the files' content from any other by their names, sizes and times of change."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.absolute()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _read(files: Sequence[Path], mode: str, size: tuple[int, int], *, scale: bool, then: int | None = None) -> Tensor:
    """``(N, channels, height, width)`` float32 in [-1, 1], mapped from a file where they are many.

    Args:
        files: a row each.
        mode: Pillow's.
        size: Pillow's (width, height), to which files of another size are scaled if ``scale``; else they are refused.
        scale: as said.
        then: the square size to which tensors of that size are scaled; None leaves them.
    """
    channels = 1 if mode == "L" else 3
    shape = (len(files), channels, *((then, then) if then else (size[1], size[0])))
    key = f"{mode}-{size[0]}-{size[1]}-{scale}-{then}-{_digest(files)}" if is_large(shape) else ""

    def fill(images: Tensor) -> None:
        for start in range(0, len(files), _AT_A_TIME):
            part = read_all(files[start : start + _AT_A_TIME], mode, size, scale=scale, remedy="image_size=")
            images[start : start + len(part)] = part if then is None else resized(part, then)

    return filled(shape, key, fill)


def resized(images: Tensor, image_size: int) -> Tensor:
    """``(n, channels, height, width)`` as squares of ``image_size`` pixels: bilinear, antialiased."""
    return F.interpolate(images, size=(image_size, image_size), mode="bilinear", antialias=True, align_corners=False)

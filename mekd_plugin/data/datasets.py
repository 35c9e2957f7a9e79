"""Data sets by name, whole, as tensors in [-1, 1]: the value range that generator, teachers and students share."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mekd_plugin.data import folders
from mekd_plugin.errors import DataMissing, InputError, UnknownName

__all__ = ["ImageData", "dataset_names", "load"]

ROOT_VARIABLE = "MEKD_DATA"
_FOLDER = "imagefolder:"
_RENDERED = "rendered_digits"
_RENDERED_IMAGES = (6000, 1000)
"""Training and test images; each part has a seed of its own, which is part of the definition."""
_DIGITS_SPLIT_SEED = 0
"""Part of the definition of ``digits``: its test set is the same in every run."""


@dataclass(frozen=True)
class ImageData:
    """A data set in memory.

    Attributes:
        train_images: ``(N, channels, height, width)`` float32 in [-1, 1], -1 black.
        train_labels: ``(N,)`` int64 in [0, num_classes).
        test_images: ``(M, channels, height, width)``, as the training images.
        test_labels: ``(M,)`` int64.
        num_classes: C.
        name: what :func:`load` was asked for.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    name: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class _Source:
    """A data set that torchvision reads (and downloads), and the files that must be under the root."""

    class_name: str
    files: tuple[str, ...]
    num_classes: int
    splits: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
    padding: int = 0


_MNIST_FILES = tuple(
    f"raw/{part}-{content}-ubyte" for part in ("train", "t10k") for content in ("images-idx3", "labels-idx1")
)
_SOURCES = {
    # 28 -> 32: twice divisible by 2, as the paper's generator and networks want it.
    "mnist": _Source("MNIST", tuple(f"MNIST/{file}" for file in _MNIST_FILES), 10, padding=2),
    "fashion_mnist": _Source("FashionMNIST", tuple(f"FashionMNIST/{file}" for file in _MNIST_FILES), 10, padding=2),
    "cifar10": _Source(
        "CIFAR10",
        tuple(f"cifar-10-batches-py/{file}" for file in ("batches.meta", "data_batch_1..5", "test_batch")),
        10,
    ),
    "cifar100": _Source("CIFAR100", tuple(f"cifar-100-python/{file}" for file in ("meta", "train", "test")), 100),
    "svhn": _Source("SVHN", ("train_32x32.mat", "test_32x32.mat"), 10, splits=({"split": "train"}, {"split": "test"})),
}


def dataset_names() -> list[str]:
    """Names that :func:`load` takes, besides ``imagefolder:PATH`` and the variants of ``rendered_digits``."""
    return ["digits", _RENDERED, *_SOURCES, "tiny_imagenet"]


def load(name: str, root: str | Path | None = None, download: bool = False, image_size: int | None = None) -> ImageData:
    """A data set, training and test images, float32 in memory (245 MB for MNIST).

    Images of Tiny ImageNet and of folders that take more than 1 GiB are decoded once into a file below ``$MEKD_CACHE``
    (4.9 GB for Tiny ImageNet as it is, 1.2 GB at ``image_size=32``) and mapped from there, so that they take memory
    only as far as they are looked at.

    Args:
        name: one of :func:`dataset_names`. ``digits`` comes with scikit-learn: 1,257 + 540 images, 8x8 enlarged to
            16x16; MNIST's are padded from 28x28 to 32x32. ``rendered_digits`` are 6,000 + 1,000 digits drawn from
            fonts, greyscale and 32x32; ``rendered_digits:color``, ``rendered_digits:16`` and
            ``rendered_digits:color:16`` are in colour, or 16x16. Or ``imagefolder:PATH``, whose ``train/`` and
            ``test/`` (or ``val/``) hold one folder per class; greyscale if every file is.
        root: where the files are, or are downloaded to; default ``$MEKD_DATA``. Not used by ``digits``,
            ``rendered_digits`` and ``imagefolder:``.
        download: fetch missing files into ``root``; otherwise nothing is fetched.
        image_size: square size to which every image is scaled (bilinear, antialiased); None keeps the data set's own,
            and the images of a folder must then have the same size.

    Raises:
        UnknownName: there is no such data set; the message lists the known ones.
        DataMissing: files are missing or cannot be read; the message says which are expected, and where.
        InputError: a bad ``image_size``, or an image folder whose sizes or classes do not match.
    """
    if image_size is not None and image_size < 4:
        raise InputError(f"image_size={image_size}: expected at least 4 pixels")
    if name.startswith(_FOLDER):
        path = Path(name.removeprefix(_FOLDER)).expanduser()
        return ImageData(*folders.read_image_folder(path, image_size), name)
    if name.partition(":")[0] == _RENDERED:
        return _resized(_draw_digits(name), image_size)
    if name not in dataset_names():
        closest = difflib.get_close_matches(name, dataset_names(), n=1, cutoff=0.4)
        hint = f"did you mean {closest[0]!r}? " if closest else ""
        raise UnknownName(f"unknown data set {name!r}: {hint}Known: {', '.join(dataset_names())}, imagefolder:PATH")
    if name == "digits":
        return _resized(_load_digits(), image_size)
    base = _root(name, root)
    if name == "tiny_imagenet":
        return ImageData(*folders.read_tiny_imagenet(base, download, image_size), name)
    return _resized(_load_torchvision(name, base, download), image_size)


def _root(name: str, root: str | Path | None) -> Path:
    chosen = root if root is not None else os.environ.get(ROOT_VARIABLE)
    if not chosen:
        raise DataMissing(
            f"{name} needs a folder with its files: say where with --data-root DIR (root=DIR in Python) or "
            f"${ROOT_VARIABLE}, and add --download (download=True) to fetch them into it; `digits` needs no files"
        )
    return Path(chosen).expanduser()


def _load_digits() -> ImageData:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # 16 grey levels above black.
    images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    images = F.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.3, stratify=digits.target, random_state=_DIGITS_SPLIT_SEED
    )
    return ImageData(images[train], labels[train], images[test], labels[test], 10, "digits")


def _draw_digits(name: str) -> ImageData:
    from mekd_plugin.data.rendered_digits import rendered_digits  # and with it Pillow

    wanted = name.split(":")[1:]
    sizes = [part for part in wanted if part in ("16", "32")]
    if len(sizes) > 1 or len(set(wanted)) != len(wanted) or set(wanted) - {"color", *sizes}:
        raise UnknownName(
            f"unknown data set {name!r}: expected {_RENDERED}, {_RENDERED}:color, {_RENDERED}:16 or "
            f"{_RENDERED}:color:16"
        )
    settings = {"color": "color" in wanted, "size": int(sizes[0]) if sizes else 32}
    parts = [rendered_digits(count, seed=seed, **settings) for seed, count in enumerate(_RENDERED_IMAGES)]
    (train, train_labels), (test, test_labels) = parts
    images = folders.to_value_range(train), folders.to_value_range(test)
    return ImageData(images[0], train_labels.clone(), images[1], test_labels.clone(), 10, name)


def _load_torchvision(name: str, root: Path, download: bool) -> ImageData:
    import torchvision

    source = _SOURCES[name]
    dataset: Callable[..., Any] = getattr(torchvision.datasets, source.class_name)
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for split in source.splits:
        try:
            read = dataset(str(root), download=download, **split)
        except Exception as error:  # torchvision raises almost anything for a damaged file
            raise DataMissing(
                f"{name} could not be read from {root} ({type(error).__name__}: {error}). Expected there: "
                f"{', '.join(source.files)}. Put them there, or fetch them with --download (download=True)"
            ) from error
        pixels = torch.as_tensor(read.data)
        if pixels.dim() == 3:
            pixels = pixels.unsqueeze(1)
        elif name.startswith("cifar"):
            pixels = pixels.permute(0, 3, 1, 2)
        images.append(F.pad(folders.to_value_range(pixels), (source.padding,) * 4, value=-1.0))
        labels.append(torch.as_tensor(read.labels if name == "svhn" else read.targets).long())
    return ImageData(images[0], labels[0], images[1], labels[1], source.num_classes, name)


def _resized(data: ImageData, image_size: int | None) -> ImageData:
    if image_size is None:
        return data
    train, test = (folders.resized(images, image_size) for images in (data.train_images, data.test_images))
    return ImageData(train, data.train_labels, test, data.test_labels, data.num_classes, data.name)

"""Image files, and images of PIL, as tensors: one orientation, one number of channels, one size, values in [-1, 1]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.errors import DataMissing, InputError

if TYPE_CHECKING:  # Pillow is loaded by whoever hands in files, and by nobody else
    from PIL import Image

__all__ = [
    "GREYSCALE_MODES",
    "SUFFIXES",
    "channels_of",
    "image_files",
    "is_images_of_files",
    "mode_of",
    "read_all",
    "read_images",
    "size_of",
    "to_value_range",
    "upright_images",
]

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""How the name of an image file ends."""
GREYSCALE_MODES = {"1", "L"}
"""Pillow's names of images without colour."""
_ORIENTATION = 0x0112  # of EXIF
_LYING = {5, 6, 7, 8}  # the orientations that exchange width and height


def to_value_range(pixels: Tensor) -> Tensor:
    """uint8 pixels 0..255, any shape, to float32 in [-1, 1], contiguous, with one copy in memory."""
    return pixels.to(torch.float32, memory_format=torch.contiguous_format, copy=True).div_(127.5).sub_(1)


def image_files(folder: Path) -> list[Path]:
    """The image files that lie in ``folder`` itself, in sorted order.

    Raises:
        DataMissing: there are none, or no such folder.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        what = "holds no image files" if folder.is_dir() else "is no folder of image files"
        raise DataMissing(f"{folder} {what}: expected some of {', '.join(sorted(SUFFIXES))}")
    return files


def is_images_of_files(images: Any) -> bool:
    """Whether ``images`` is a path, or a list of paths or of PIL images, which :func:`read_images` takes."""
    if isinstance(images, str | Path):
        return True
    if not isinstance(images, list | tuple) or not images:
        return False
    from PIL import Image

    return isinstance(images[0], str | Path | Image.Image)


def read_images(
    images: str | Path | Iterable[str | Path | Image.Image],
    image_shape: tuple[int, int, int] | None = None,
    *,
    remedy: str = "image_shape=(channels, height, width)",
) -> Tensor:
    """Images of files as one tensor; pictures that a camera took lying are turned upright.

    Args:
        images: a folder, of which every image file is read in sorted order, a file, or a list of files or PIL images.
        image_shape: ``(channels, height, width)`` to which each is brought, with 1 channel (grey) or 3 (RGB), scaled
            bilinearly with antialiasing; None takes the first one's size, grey if all of them are.
        remedy: what to set where sizes differ, for the message.

    Returns:
        ``(N, channels, height, width)`` float32 in [-1, 1].

    Raises:
        DataMissing: a file is missing, or is no image.
        InputError: sizes that differ where no ``image_shape`` brings them to one, or more than 8 bits a channel.
    """
    sources = _sources(images)
    if image_shape is not None and image_shape[0] not in (1, 3):
        raise InputError(f"image_shape={image_shape}: expected 1 channel (grey) or 3 (RGB) for images of files")
    if image_shape is None:
        mode, size = "L" if channels_of(sources) == 1 else "RGB", size_of(sources[0])
    else:
        mode, size = "L" if image_shape[0] == 1 else "RGB", (image_shape[2], image_shape[1])
    return read_all(sources, mode, size, scale=image_shape is not None, remedy=remedy)


def read_all(
    sources: Sequence[Path | Image.Image], mode: str, size: tuple[int, int], *, scale: bool, remedy: str
) -> Tensor:
    """``(N, channels, height, width)`` float32 in [-1, 1].

    Args:
        sources: files, or images of PIL.
        mode: Pillow's, ``"L"`` or ``"RGB"``.
        size: Pillow's, (width, height).
        scale: whether those of another size are brought to it.
        remedy: what to set where they are not.
    """
    from PIL import Image

    channels = 1 if mode == "L" else 3
    images = torch.empty(len(sources), channels, size[1], size[0])
    for row, source in enumerate(sources):
        image = _upright(source, mode)
        if image.size != size:
            if not scale:
                raise InputError(
                    f"{_name(source)} is {image.size[0]}x{image.size[1]} and others are {size[0]}x{size[1]}: "
                    f"set {remedy} to scale them all to one size"
                )
            image = image.resize(size, Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).view(size[1], size[0], channels)
        images[row] = to_value_range(pixels.permute(2, 0, 1))
    return images


def upright_images(images: str | Path | Iterable[str | Path | Image.Image], channels: int) -> Iterator[Image.Image]:
    """Images of files in their own sizes, upright, grey where ``channels`` is 1, else RGB; see :func:`read_images`.

    Raises:
        DataMissing: a file is missing, or is no image. InputError: more than 8 bits a channel.
    """
    return (_upright(source, "L" if channels == 1 else "RGB") for source in _sources(images))


def channels_of(sources: Sequence[Path | Image.Image]) -> int:
    """1 where every image is grey, else 3."""
    return 1 if all(mode_of(source) in GREYSCALE_MODES for source in sources) else 3


def mode_of(source: Path | Image.Image) -> str:
    """Pillow's name of how the pixels are stored, such as ``"L"``."""
    with _opened(source) as image:
        return image.mode


def size_of(source: Path | Image.Image) -> tuple[int, int]:
    """Width and height of the upright image."""
    with _opened(source) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(_ORIENTATION) in _LYING else (width, height)


def _sources(images: str | Path | Iterable[str | Path | Image.Image]) -> list[Path | Image.Image]:
    if isinstance(images, str | Path):
        path = Path(images).expanduser()
        return [path] if path.is_file() else list(image_files(path))
    from PIL import Image

    sources = [source if isinstance(source, Image.Image) else Path(source).expanduser() for source in images]
    if not sources:
        raise InputError("no images: expected at least one file or image")
    return sources


def _opened(source: Path | Image.Image) -> Image.Image:
    """The image; one that was handed in is copied, so that closing it leaves the caller's open."""
    from PIL import Image

    try:
        image = source.copy() if isinstance(source, Image.Image) else Image.open(source)
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{_name(source)} is far too large to be decoded safely ({error}): scale it down first"
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataMissing(f"{_name(source)} cannot be read as an image ({error}): replace it or remove it") from error
    if image.mode.startswith(("I", "F")):
        # Pillow would silently clip such values at 255.
        raise InputError(
            f"{_name(source)} has more than 8 bits per channel (mode {image.mode}): convert it to 8 bits first"
        )
    return image


def _upright(source: Path | Image.Image, mode: str) -> Image.Image:
    from PIL import ImageOps

    with _opened(source) as opened:
        try:
            # Cameras store a picture as the sensor saw it, with a note of how they were held.
            return ImageOps.exif_transpose(opened).convert(mode)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataMissing(f"{_name(source)} is truncated or damaged ({error}): replace it or remove it") from error


def _name(source: Path | Image.Image) -> str:
    return str(source) if isinstance(source, Path) else "an image of PIL"

"""Images as files: what an upload makes of a tensor, and back."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.errors import InputError

__all__ = ["as_levels", "decoded", "encoded", "from_levels"]


def as_levels(images: Tensor, value_range: tuple[float, float]) -> np.ndarray:
    """Images ``(N, channels, height, width)`` as bytes ``(N, height, width, channels)``: 256 levels of the range."""
    low, high = value_range
    step = (high - low) / 255
    levels = ((images.detach().cpu().double() - low) / step).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().numpy()


def from_levels(levels: np.ndarray, value_range: tuple[float, float], like: Tensor) -> Tensor:
    """The reverse of :func:`as_levels`, in the dtype and on the device of ``like``."""
    low, high = value_range
    pixels = torch.from_numpy(levels).permute(0, 3, 1, 2).double() * ((high - low) / 255) + low
    return pixels.to(like.device, like.dtype)


def encoded(levels: np.ndarray, form: str, quality: int) -> bytes:
    """One image ``(height, width, channels)`` as a ``"png"`` or ``"jpeg"`` file, of 1 or 3 channels.

    JPEG with all of the colour (4:4:4): what it changes beside is said by ``quality``, 1 to 100.

    Raises:
        InputError: it has another number of channels.
    """
    from PIL import Image

    channels = levels.shape[2]
    if channels not in (1, 3):
        raise InputError(f"images of {channels} channels: a {form.upper()} has 1 (grey) or 3 (red, green, blue)")
    picture = Image.fromarray(levels[:, :, 0] if channels == 1 else levels)
    stream = io.BytesIO()
    if form == "png":
        picture.save(stream, "PNG", compress_level=1)
    else:
        picture.save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """A file as ``(height, width, channels)`` bytes, 1 channel if it is grey, else 3.

    Raises:
        InputError: it is no image.
    """
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(content))
        levels = np.array(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{len(content):,} bytes that are no image ({error}): expected a PNG or JPEG file") from error
    return levels[:, :, None] if levels.ndim == 2 else levels

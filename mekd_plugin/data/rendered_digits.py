"""Digits drawn from fonts: a colour set and another domain for digits, without a download.

Position, size, rotation, colours, background and neighbours vary, as they do in house numbers. It is in the spirit of
Syn. Digits (Ganin and Lempitsky, *Unsupervised Domain Adaptation by Backpropagation*, ICML 2015), which the paper pairs
with SVHN, and is not that set. The fonts are those that matplotlib ships.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

__all__ = ["rendered_digits"]

_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
_CANVAS = 64
"""Pixels of the square on which glyphs and images are drawn before they are averaged down."""
_GLYPH_HEIGHT = 48
_AT_A_TIME = 500
_LUMINANCE = (0.299, 0.587, 0.114)


@lru_cache(maxsize=4)
def rendered_digits(count: int, *, color: bool, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of digits and their labels, the same for the same arguments; each class is as frequent as the others.

    Args:
        count: how many.
        color: three channels, light on dark or dark on light; else one channel, light on dark.
        size: 16 or 32, height and width in pixels. The same seed draws the same images in both sizes.
        seed: of everything random.

    Returns:
        ``(count, 3 or 1, size, size)`` uint8, 0 black; ``(count,)`` int64 in [0, 10). Not to be changed: the next call
        returns the same tensors.
    """
    rng = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % 10)[torch.randperm(count, generator=rng)]
    parts = [_draw(part, color, size, rng) for part in labels.split(_AT_A_TIME)]
    return torch.cat(parts), labels


def _draw(labels: Tensor, color: bool, size: int, rng: torch.Generator) -> Tensor:
    """``(n, channels, size, size)`` uint8."""
    count, channels = len(labels), 3 if color else 1

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=rng)

    ink, paper = _colors(uniform, channels)
    # The paper changes its shade along a random direction.
    angle, slope = uniform(0, 2 * math.pi), uniform(0, 0.3, channels)
    across = torch.linspace(-0.5, 0.5, _CANVAS)
    ramp = torch.cos(angle).view(-1, 1, 1) * across + torch.sin(angle).view(-1, 1, 1) * across[:, None]
    images = paper[..., None, None] + slope[..., None, None] * ramp[:, None]
    height, turn = uniform(0.55, 0.85), uniform(-20, 20)
    right, down = uniform(-0.12, 0.12), uniform(-0.12, 0.12)
    font = torch.randint(len(_FONTS), (count,), generator=rng)
    for side in (-1, 1):  # neighbours, of the same font, that reach into the picture
        other = torch.randint(10, (count,), generator=rng)
        there, apart = uniform(0, 1) < 0.5, uniform(0.55, 0.8)
        mask = _placed(font, other, height, turn, right + side * apart, down) * there.view(-1, 1, 1)
        images = images + 0.8 * mask[:, None] * (ink[..., None, None] - images)
    mask = _placed(font, labels, height, turn, right, down)
    images = images + mask[:, None] * (ink[..., None, None] - images)
    images = F.avg_pool2d(images, _CANVAS // size)
    noise = torch.randn(count, channels, 32, 32, generator=rng)  # of one size, so that all sizes draw as much
    images = images + 0.03 * F.avg_pool2d(noise, 32 // size)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _colors(uniform: Callable[..., Tensor], channels: int) -> tuple[Tensor, Tensor]:
    """Ink and paper ``(n, channels)`` in [0, 1], which differ in luminance."""
    paper, ink = uniform(0, 1, channels), uniform(0, 1, channels)
    if channels == 1:
        return 0.6 + 0.4 * ink, 0.35 * paper
    weights = torch.tensor(_LUMINANCE)
    dark = (paper @ weights < 0.5)[:, None]
    near = ((paper - ink) @ weights).abs()[:, None] < 0.35
    # Halfway to white on dark paper, to black on light.
    apart = torch.where(dark, 0.5 + 0.5 * torch.maximum(ink, paper), 0.5 * torch.minimum(ink, paper))
    return torch.where(near, apart, ink), paper


def _placed(font: Tensor, digit: Tensor, height: Tensor, turn: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Masks ``(n, canvas, canvas)`` in [0, 1]: height and shifts as shares of the picture, the turn in degrees."""
    scale = _GLYPH_HEIGHT / _CANVAS / height  # from places in the picture to places in the glyph
    cos, sin = (torch.cos(torch.deg2rad(turn)) * scale, torch.sin(torch.deg2rad(turn)) * scale)
    rows = [torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)]
    turned = torch.stack(rows, 1)
    shift = -2 * (turned @ torch.stack([right, down], 1)[..., None])
    grid = F.affine_grid(torch.cat([turned, shift], 2), [len(digit), 1, _CANVAS, _CANVAS], align_corners=False)
    return F.grid_sample(_glyphs()[font, digit][:, None], grid, align_corners=False)[:, 0]


@lru_cache(maxsize=1)
def _glyphs() -> Tensor:
    """``(fonts, 10, canvas, canvas)`` in [0, 1]: each digit in the middle, as high as the others."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return torch.stack([torch.stack([_glyph(folder / f"{name}.ttf", digit) for digit in range(10)]) for name in _FONTS])


def _glyph(path: Path, digit: int) -> Tensor:
    text = str(digit)
    font = ImageFont.truetype(str(path), 2 * _CANVAS, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = font.getbbox(text)
    drawn = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(drawn).text((-left, -top), text, fill=255, font=font)
    width = max(1, round(drawn.width * _GLYPH_HEIGHT / drawn.height))
    drawn = drawn.resize((min(width, _CANVAS), _GLYPH_HEIGHT), Image.Resampling.BOX)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    canvas.paste(drawn, ((_CANVAS - drawn.width) // 2, (_CANVAS - _GLYPH_HEIGHT) // 2))
    return torch.from_numpy(np.array(canvas)).float() / 255

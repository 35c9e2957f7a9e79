"""Label-preserving views of images (shifts, small affine maps) and mix-up.

All functions run where the images are and never make the device wait for the host, so they may stand inside a
training step, and on torch's meta device. All are differentiable with respect to the images: they may stand between a
generator and a discriminator (Zhao et al., *Differentiable Augmentation for Data-Efficient GAN Training*, NeurIPS
2020).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mekd_plugin.errors import InputError

__all__ = ["affine", "mixup", "translate"]


def translate(images: Tensor, pixels: int, fill: float = -1.0, rng: torch.Generator | None = None) -> Tensor:
    """Each image shifted by its own whole numbers of pixels, uniform in ``-pixels..pixels`` along both axes.

    Args:
        images: ``(N, channels, height, width)``, floating point, any range.
        pixels: largest shift, 0 or more; 0 returns the images themselves.
        fill: what moves in at the border; -1 is black in [-1, 1].
        rng: source of the shifts, on the images' device; None draws from the device's global generator.

    Returns:
        Shape, dtype and device of ``images``. Pixel values are copied, never interpolated.

    Raises:
        InputError: images that are not a floating-point batch, a negative ``pixels``, or ``rng`` on another device.

    >>> translate(torch.ones(1, 1, 3, 3), 0).sum().item()
    9.0
    """
    _check_images(images, rng)
    if pixels < 0:
        raise InputError(f"pixels={pixels}: expected the largest shift, 0 or more whole pixels")
    if pixels == 0:
        return images
    count, channels, height, width = images.shape
    device = images.device
    # Padding first makes the gather one-to-one: its backward then adds nothing twice, so it is exact and deterministic
    # on every device. On a CPU it was the fastest of seven ways tried (index arithmetic, unfold, grid_sample, ...).
    padded = F.pad(images, (pixels, pixels, pixels, pixels), value=fill)
    corner = torch.randint(0, 2 * pixels + 1, (2, count, 1), generator=rng, device=device)
    rows = (torch.arange(height, device=device) + corner[0]) * (width + 2 * pixels)
    columns = torch.arange(width, device=device) + corner[1]
    index = (rows.unsqueeze(2) + columns.unsqueeze(1)).view(count, 1, height * width)
    return padded.flatten(2).gather(2, index.expand(-1, channels, -1)).view(count, channels, height, width)


def affine(
    images: Tensor,
    degrees: float = 10.0,
    scale: tuple[float, float] = (0.9, 1.1),
    translate: float = 2.0,
    fill: float = -1.0,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Each image turned, scaled and shifted about its centre by its own uniform amounts, bilinearly.

    Args:
        images: ``(N, channels, height, width)``, floating point, any range.
        degrees: largest rotation either way, 0 or more.
        scale: smallest and largest magnification, both positive.
        translate: largest shift along each axis, in pixels, 0 or more; not rounded.
        fill: what lies outside the image; -1 is black in [-1, 1].
        rng: source of the amounts, on the images' device; None draws from the device's global generator.

    Returns:
        Shape, dtype and device of ``images``. Values stay between the smallest and the largest of images and ``fill``.

    Raises:
        InputError: images that are not a floating-point batch, amounts outside their ranges, or ``rng`` elsewhere.

    >>> affine(torch.ones(2, 1, 4, 4), degrees=0, scale=(1, 1), translate=0).mean().item()
    1.0
    """
    _check_images(images, rng)
    smallest, largest = scale
    if degrees < 0 or translate < 0 or not 0 < smallest <= largest:
        raise InputError(
            f"degrees={degrees}, scale={tuple(scale)}, translate={translate}: expected degrees and translate of 0 or "
            "more, and a scale (smallest, largest) with 0 < smallest <= largest"
        )
    count, _, height, width = images.shape
    # Half precision cannot place a pixel to a fraction of itself: grid and sampling are float32 at least.
    working = images.to(torch.promote_types(images.dtype, torch.float32))
    uniform = torch.rand(4, count, generator=rng, device=images.device, dtype=working.dtype)
    angle = (2 * uniform[0] - 1) * math.radians(degrees)
    magnification = smallest + (largest - smallest) * uniform[1]
    # grid_sample wants the inverse map in coordinates that run from -1 to 1 along each axis, so that a rotation of an
    # image that is not square takes the ratio of its sides, and a shift of one pixel is 2 / size.
    cosine, sine = torch.cos(angle) / magnification, torch.sin(angle) / magnification
    shift_x, shift_y = ((2 * uniform[row] - 1) * (2 * translate / size) for row, size in ((2, width), (3, height)))
    theta = torch.stack(
        [cosine, sine * (height / width), shift_x, -sine * (width / height), cosine, shift_y], dim=1
    ).view(count, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    # Outside is zero to grid_sample: measure the values from ``fill``.
    moved = F.grid_sample(working - fill, grid, mode="bilinear", align_corners=False)
    return (moved + fill).to(images.dtype)


def mixup(a: Tensor, b: Tensor, ratio: float | Tensor) -> Tensor:
    """Convex mixtures ``ratio * a + (1 - ratio) * b``, image by image.

    Args:
        a: ``(N, channels, height, width)``, floating point.
        b: what to mix in, of the same shape.
        ratio: share of ``a``: a number in [0, 1] for all, or a tensor ``(N,)`` on the images' device, one per image,
            whose values are the caller's business (looking at them would make the device wait for the host).

    Raises:
        InputError: differing shapes, a number outside [0, 1], or a ratio tensor that is not ``(N,)``.

    Source: Zhang et al., *mixup: Beyond Empirical Risk Minimization*, ICLR 2018; labels are not mixed here, the
    teacher is asked about the mixture.

    >>> mixup(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 0.25).mean().item()
    0.25
    """
    _check_images(a, None)
    _check_images(b, None)
    if a.shape != b.shape:
        raise InputError(f"images of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be mixed: expected one shape")
    if isinstance(ratio, Tensor):
        if ratio.shape != a.shape[:1]:
            raise InputError(f"ratio of shape {tuple(ratio.shape)}: expected one number per image, ({len(a)},)")
        ratio = ratio.to(a.dtype).view(-1, 1, 1, 1)
    elif not 0 <= ratio <= 1:
        raise InputError(f"ratio={ratio}: expected the share of the first images, in [0, 1]")
    return ratio * a + (1 - ratio) * b


def _check_images(images: Tensor, rng: torch.Generator | None) -> None:
    if images.dim() != 4 or not images.is_floating_point():
        raise InputError(
            f"images of shape {tuple(images.shape)} and dtype {images.dtype}: expected floating point "
            "(N, channels, height, width); a single image needs images.unsqueeze(0)"
        )
    if rng is not None and images.device.type not in (rng.device.type, "meta"):
        raise InputError(
            f"rng on {rng.device} for images on {images.device}: "
            f"make it there, torch.Generator(device={images.device.type!r})"
        )

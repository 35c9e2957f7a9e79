"""Two-dimensional pictures of a latent space's cells: what they show, and what they leave out.

Class scores are centred, so that C = 3 classes leave a plane, the one orthogonal to (1, 1, 1), and a picture of it is
complete. With more classes a plane is a slice through the space, or a shadow of all of it; a picture says which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.transport.samples import Points, as_labels, as_points

__all__ = ["CellPicture", "class_plane", "project_cells", "slice_cells"]


@dataclass(frozen=True)
class CellPicture:
    """Classes over a plane.

    Attributes:
        points: ``(N, 2)``, places in the plane, in the unit of the latent.
        classes: ``(N,)`` int64, the class there.
        kind: ``"plane"``: every centred latent lies in it; ``"slice"``: those that lie in it, of a space of more
            dimensions; ``"projection"``: latents off it too, moved into it at right angles.
        shown: the classes whose corners the plane goes through.
        corners: ``(len(shown), 2)``, the directions of their unit scores in the plane.
        grid: points along each axis where they are a grid, row by row from the lower left; None for scattered ones.
        note: what a caption has to say about it.
    """

    points: Tensor
    classes: Tensor
    kind: Literal["plane", "slice", "projection"]
    shown: tuple[int, ...]
    corners: Tensor
    grid: int | None
    note: str


def class_plane(num_classes: int, shown: Sequence[int] = (0, 1, 2)) -> Tensor:
    """Orthonormal axes ``(2, C)`` float64 of the plane of centred scores that vary over three classes only.

    The first class's corner points up, the second's to the lower left, the third's to the lower right.

    Args:
        num_classes: C, at least 3.
        shown: three different classes.

    Raises:
        InputError: fewer than three classes, or other than three different ones to show.

    >>> (class_plane(3) @ class_plane(3).T).round(decimals=6)
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    if num_classes < 3 or len(set(shown)) != 3 or len(shown) != 3 or not all(0 <= c < num_classes for c in shown):
        raise InputError(
            f"shown={tuple(shown)} of {num_classes} classes: expected three different ones in [0, {num_classes}); two "
            "classes leave a line, which needs no picture"
        )
    axes = torch.zeros(2, num_classes, dtype=torch.float64)
    axes[:, list(shown)] = torch.tensor([[0.0, -1.0, 1.0], [2.0, -1.0, -1.0]], dtype=torch.float64)
    return torch.nn.functional.normalize(axes)


def slice_cells(
    classify: Callable[[Tensor], Tensor],
    num_classes: int,
    *,
    shown: Sequence[int] = (0, 1, 2),
    extent: float = 3.0,
    resolution: int = 100,
    style: Tensor | None = None,
) -> CellPicture:
    """The cells on a grid in the plane through the origin.

    Args:
        classify: latents ``(resolution**2, C)``, or ``(resolution**2, C + style_dim)`` with a style -> class indices
            ``(resolution**2,)``. Of a teacher, ``resolution**2`` **queries**, in this one call. The latents come on the
            style's device, without one on the CPU.
        num_classes: C, at least 3.
        shown: the three classes whose corners the plane goes through; the scores of all others are 0.
        extent: the grid reaches from -extent to extent on both axes, in the unit of the latent.
        resolution: grid points an axis, at least 2.
        style: ``(style_dim,)`` further latent coordinates, the same at every grid point; None where there are none.

    Raises:
        InputError: as :func:`class_plane`; an extent that is not positive, a resolution below 2, or classes that are
            not one integer in [0, C) a latent.
    """
    axes = class_plane(num_classes, shown)
    if not extent > 0 or resolution < 2:
        raise InputError(f"extent={extent}, resolution={resolution}: expected a positive extent and at least 2 points")
    ticks = torch.linspace(-extent, extent, resolution, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=2).reshape(-1, 2)
    latent = (points @ axes).to(torch.get_default_dtype())
    if style is not None:
        latent = torch.cat([latent.to(style), style.expand(len(latent), -1)], dim=1)
    with torch.no_grad():
        classes = as_labels(classify(latent), len(latent), num_classes, "classes of the slice")
    complete = num_classes == 3
    note = "all centred latents" if complete else f"a slice: the scores of the other {num_classes - 3} classes are 0"
    note += "" if style is None else f"; one style of {len(style)} coordinates throughout"
    kind: Literal["plane", "slice"] = "plane" if complete else "slice"
    return CellPicture(points, classes, kind, tuple(shown), axes[:, list(shown)].T, resolution, note)


def project_cells(latent: Points, classes: Points, *, shown: Sequence[int] = (0, 1, 2)) -> CellPicture:
    """Latents whose class is known already, moved into the plane at right angles: no further query.

    Args:
        latent: z, ``(N, C)``: the coordinates that stand for class scores; anything that varies beside them, such
            as a style, is not seen.
        classes: ``(N,)`` integers in [0, C).
        shown: the three classes whose corners the plane goes through.

    Raises:
        InputError: as :func:`class_plane`; see ``samples``.
    """
    z = as_points(latent, "latent")
    axes = class_plane(z.shape[1], shown).to(z.device)
    labels = as_labels(classes, len(z), z.shape[1], "classes")
    places = z.double() @ axes.T
    unseen = bool((z.double() - places @ axes).norm() > 1e-6 * z.double().norm())
    kind: Literal["plane", "projection"] = "projection" if unseen else "plane"
    hidden = f"a projection: {z.shape[1] - 2} of {z.shape[1]} directions of the latent are not seen, so cells overlap"
    corners = axes[:, list(shown)].T.cpu()
    return CellPicture(
        places.cpu(), labels, kind, tuple(shown), corners, None, hidden if unseen else "all centred latents"
    )

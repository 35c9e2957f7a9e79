"""Is the direction of a loss new? Angles of its gradient with the straight line to the teacher and with a cell's edge.

Source of the question: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR
2024, which claims that the image-space loss moves the student's logits towards the boundaries of the teacher's cells,
in another direction than aligning logits does. A *cell* is the set of scores with the same arg max; its boundaries lie
in the hyperplanes ``y_i = y_j``.

All directions are taken among centred scores, a space of C - 1 dimensions: a constant per image changes no response.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.responses import centre_scores
from mekd_plugin.transport.matching import as_scores
from mekd_plugin.transport.statistics.angles import angles_between, random_angle_quantiles, random_angle_shares

__all__ = ["GradientDirection", "gradient_direction", "nearest_boundary"]

_QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class GradientDirection:
    """Where one descent step on a loss moves the student's scores, image by image. Angles are in degrees, 0 to 180.

    An angle is NaN where one of its two directions is zero: no gradient, student and teacher equal, or a student that
    stands exactly on the boundary.

    Attributes:
        direction: ``(N, C)``, the negative gradient, centred: of the loss as it was given.
        to_teacher: ``(N,)``, its angle with the straight line ``y_T - y_S``.
        to_boundary: ``(N,)``, its angle with the way to the nearest point of the boundary of the teacher's cell.
        line_to_boundary: ``(N,)``, the angle of the straight line itself with that way: what ``to_boundary`` would be
            for a loss that goes straight to the teacher.
        orthogonal_share: ``(N,)`` in [0, 1], the share of the gradient's norm that is orthogonal to the straight line,
            the sine of ``to_teacher``: 0 for the squared error, near 1 for a random direction among many classes.
        inside: ``(N,)``, whether the student's arg max is the teacher's. Then the boundary leads out of the right
            cell; elsewhere it leads into it.
        boundary_distance: ``(N,)``, Euclidean, in the unit of the scores.
    """

    direction: Tensor
    to_teacher: Tensor
    to_boundary: Tensor
    line_to_boundary: Tensor
    orthogonal_share: Tensor
    inside: Tensor
    boundary_distance: Tensor

    def as_record(self, *, bins: int = 36) -> dict[str, Any]:
        """Quartiles, and shares of the images in ``bins`` equal bins from 0 to 180 degrees; and a random direction's.

        Images whose angle is undefined are counted and left out; with none left the quartiles are None. Angles with the
        way to the boundary stand apart for images inside the teacher's cell, where it leads out, and outside, where it
        leads in. ``norm`` holds the quartiles of the gradient's norm: how much a term weighs in a sum of losses.
        """
        edges = np.linspace(0.0, 180.0, bins + 1)
        images, classes = self.direction.shape
        sides = {"inside": self.inside, "outside": ~self.inside}
        boundary = {"to_boundary": self.to_boundary, "line_to_boundary": self.line_to_boundary}
        return {
            "images": images,
            "classes": classes,
            "edges": edges.tolist(),
            "to_teacher": _summary(self.to_teacher, edges),
            **{
                name: {side: _summary(angles[chosen], edges) for side, chosen in sides.items()}
                for name, angles in boundary.items()
            },
            "orthogonal_share": _summary(self.orthogonal_share, np.linspace(0.0, 1.0, bins + 1)),
            "norm": self.direction.norm(dim=1).cpu().quantile(torch.tensor(_QUARTILES, dtype=torch.float64)).tolist(),
            "inside": float(self.inside.double().mean()),
            "random": {
                "quartiles": random_angle_quantiles(classes - 1, _QUARTILES),
                "shares": random_angle_shares(classes - 1, edges),
            },
        }


def gradient_direction(loss: Callable[[Tensor], Tensor], student: Tensor, teacher: Tensor) -> GradientDirection:
    """The direction in which a loss moves the student's scores, against the line to the teacher and the cell's edge.

    Args:
        loss: the student's scores ``(N, C)`` -> a scalar; whatever else it needs (the teacher's answers, a generator
            in evaluation mode, each row's style) is bound in it. It is called once.
        student: y_S, ``(N, C)``.
        teacher: y_T, the teacher's scores ``(N, C)`` for the same images. A hard response has to be given as the
            scores that the loss takes it for.

    Raises:
        InputError: scores that are not two finite ``(N, C)`` tensors of the same shape with at least two classes, a
            loss that is not a scalar or does not depend on the scores, or a gradient that is not finite.

    >>> y_student, y_teacher = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]])
    >>> straight = gradient_direction(lambda y: (y - y_teacher).square().mean(), y_student, y_teacher)
    >>> round(straight.to_teacher.item(), 3), bool(straight.inside)
    (0.0, False)
    """
    student, teacher = as_scores(student, teacher, "student", "teacher")
    step = -centre_scores(_gradient(loss, student).double())
    scores, target = centre_scores(student.double()), centre_scores(teacher.double())
    classes = target.argmax(dim=1)
    line, way = target - scores, nearest_boundary(scores, classes) - scores
    to_teacher = angles_between(step, line)
    return GradientDirection(
        direction=step,
        to_teacher=to_teacher,
        to_boundary=angles_between(step, way),
        line_to_boundary=angles_between(line, way),
        orthogonal_share=to_teacher.deg2rad().sin(),
        inside=scores.argmax(dim=1) == classes,
        boundary_distance=way.norm(dim=1),
    )


def nearest_boundary(scores: Tensor, classes: Tensor) -> Tensor:
    r"""The point nearest to each row on the boundary of the cell :math:`\{y : y_c \ge y_k \text{ for all } k\}`.

    Inside the cell it is the foot on the hyperplane ``y_c = y_k`` of the runner-up k, at a distance of
    :math:`(y_c - y_k) / \sqrt 2`. Outside it is the projection on the cell: ``y_c`` and the highest others, the fewest
    that suffice, all take their common mean.

    Args:
        scores: ``(N, C)`` floating point, C at least 2.
        classes: c of each row, ``(N,)`` int64.

    Returns:
        ``(N, C)``; each row has the sum that it had.

    >>> nearest_boundary(torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 2.5]]), torch.tensor([0, 0]))
    tensor([[2.0000, 2.0000, 0.0000],
            [1.5000, 1.5000, 1.5000]])
    """
    column = classes.unsqueeze(1)
    own = scores.gather(1, column)
    others, order = scores.scatter(1, column, -torch.inf).sort(dim=1, descending=True)
    sizes = torch.arange(2, scores.shape[1] + 1, device=scores.device)
    levels = (own + others[:, :-1].cumsum(dim=1)) / sizes
    fewest = (levels >= others[:, 1:]).to(torch.uint8).argmax(dim=1, keepdim=True)
    level = levels.gather(1, fewest)
    levelled = torch.arange(scores.shape[1], device=scores.device) <= fewest
    return scores.scatter(1, order, torch.where(levelled, level, others)).scatter(1, column, level)


def _gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> Tensor:
    with torch.enable_grad():
        scores = student.detach().clone().requires_grad_()
        value = loss(scores)
        if value.numel() != 1 or not value.requires_grad:
            raise InputError(
                f"the loss gave a tensor of shape {tuple(value.shape)} with requires_grad={value.requires_grad}: "
                "expected a scalar that depends on the scores it was called with"
            )
        (gradient,) = torch.autograd.grad(value.sum(), scores, allow_unused=True)
    if gradient is None:
        raise InputError("the loss does not depend on the scores it was called with: let it use its argument")
    if not gradient.isfinite().all():
        raise InputError("the loss has a gradient that is not finite: look for a logarithm or a root of 0 in it")
    return gradient


def _summary(values: Tensor, edges: np.ndarray) -> dict[str, Any]:
    known = values[~values.isnan()].cpu().numpy()
    return {
        "quartiles": np.quantile(known, _QUARTILES).tolist() if len(known) else None,
        "shares": (np.histogram(known, edges)[0] / max(1, len(known))).tolist(),
        "undefined": len(values) - len(known),
    }

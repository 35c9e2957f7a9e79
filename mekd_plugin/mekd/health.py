"""How healthy a generator is, read off the bank that it filled, without any further query."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mekd_plugin.rows import Rows

__all__ = ["Health", "generator_health"]

_NAMED = 10  # classes that a warning lists by name


@dataclass(frozen=True)
class Health:
    """How good a generator is for distillation, from answers that were bought anyway.

    Attributes:
        class_shares: share of each class among the teacher's answers to generated images.
        confidence: the teacher's mean highest probability; None for hard responses.
        distance_to_real: median distance (root mean square per pixel) from a generated image to its nearest real one.
        real_to_real: the same from a real image to its nearest other real one: what a held-out image would have.
        warnings: what is wrong and what to change.
    """

    class_shares: list[float]
    confidence: float | None
    distance_to_real: float
    real_to_real: float
    warnings: list[str]

    def as_record(self) -> dict[str, Any]:
        return asdict(self)


def generator_health(generated: Rows, real: Tensor, *, most: int = 1000) -> Health:
    """Judge a generator by the bank it filled.

    Args:
        generated: rows of generated images and the teacher's answers.
        real: the edge's images ``(N, channels, height, width)``, N at least 2.
        most: the largest number of images of each kind that distances are computed on.
    """
    response = generated.answers()
    shares = torch.bincount(response.labels.cpu(), minlength=response.num_classes) / len(response)
    confidence = float(response.scores().softmax(dim=1).amax(dim=1).mean()) if response.soft else None
    known = real[:most].flatten(1)
    made = generated.images[:most].to(known).flatten(1)
    scale = known.shape[1] ** 0.5
    nearest_made = torch.cdist(made, known).amin(dim=1).median() / scale
    between = torch.cdist(known, known).fill_diagonal_(float("inf"))
    nearest_real = between.amin(dim=1).median() / scale
    health = Health(shares.tolist(), confidence, float(nearest_made), float(nearest_real), [])
    health.warnings.extend(_complaints(health, made, scale))
    return health


def _complaints(health: Health, made: Tensor, scale: float) -> list[str]:
    complaints = []
    fair = 1 / len(health.class_shares)
    missing = [str(label) for label, share in enumerate(health.class_shares) if share < 0.1 * fair]
    if missing:
        others = f" and {len(missing) - _NAMED} others" if len(missing) > _NAMED else ""
        complaints.append(
            f"the generator hardly draws class {', '.join(missing[:_NAMED])}{others} (under a tenth of an equal share "
            "of its images): train stage 1 for more steps (emulation.steps), give it more latent noise "
            "(emulation.style_dim), or more real images"
        )
    spread = float(torch.cdist(made[:200], made[:200]).median()) / scale
    if spread < 0.3 * health.real_to_real:
        complaints.append(
            "the generator draws nearly the same image again and again (mode collapse): take more real "
            "images, fewer steps (emulation.steps), or, where it is not in use, a discriminator that does not see the "
            "batch (emulation.discriminator='small', as preset 'quick' has it)"
        )
    if health.distance_to_real < 0.5 * health.real_to_real:
        complaints.append(
            "generated images lie closer to single real images than real images lie to each other: the generator may "
            "copy them, and what leaves the edge may not be private; use fewer steps (emulation.steps) or more real "
            "images"
        )
    elif health.distance_to_real > 3 * health.real_to_real:
        complaints.append(
            "generated images look like none of the real ones: train stage 1 for more steps (emulation.steps), or "
            "lower its learning rates"
        )
    return complaints

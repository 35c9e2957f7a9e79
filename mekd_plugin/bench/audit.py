"""Is a run's generator the teacher's inverse? A few questions more about G(y, e), outside the budget.

The wanted answers y are the teacher's to real images that no method had: those that a student is tested on. G draws an
image for each of them with noise e of its own, and the teacher says what it sees there. All that is used is the run's
:class:`~mekd_plugin.distiller.Inverse`, so every way of making one is judged alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mekd_plugin.bench.settings import FEWEST_AUDITED
from mekd_plugin.distiller import Inverse
from mekd_plugin.prediction import reference_of
from mekd_plugin.records import RunRecord
from mekd_plugin.responses import Response
from mekd_plugin.training.loop import stage_seed
from mekd_plugin.transport.questions.coverage import coverage
from mekd_plugin.transport.statistics.proportions import proportion_of

__all__ = ["NOT_AUDITED", "audit", "draw_images", "latents_of", "wants_audit"]

NOT_AUDITED = {"class_match": None, "score_error": None, "coverage": None}
"""What a record says of a generator that nobody asked about."""

_ROWS_AT_A_TIME = 256


def wants_audit(record: RunRecord, count: int) -> bool:
    """Whether a finished run's generator is still to be asked about: never twice, whatever the numbers."""
    return count > 0 and record.generator is not None and "audited" not in record.generator


def audit(
    inverse: Inverse,
    real: Response | None,
    ask: Callable[[Tensor], Response],
    *,
    count: int,
    value_range: tuple[float, float],
    seed: int,
) -> dict[str, Any]:
    """Draw images for answers that the teacher gives to real images, and ask about them.

    Args:
        inverse: the run's generator.
        real: the teacher's answers to real images that no method had, of which some, at random, are asked for, and the
            others are those to be covered; None where they are not known.
        ask: images ``(N, channels, height, width)`` -> the teacher's answers.
        count: how many; fewer where there are fewer answers.
        value_range: the teacher's.
        seed: of the choice and of the noise.

    Returns:
        What goes into a record's ``generator``: ``class_match``, the share of images that the teacher puts into the
        class of the wanted answer; ``class_match_interval``, Wilson's; ``score_error``, the mean absolute difference
        between a class's probability and the wanted one, from 0 to 2/C; ``coverage``, the share of the teacher's
        answers to other real images that have one of these answers nearer than their fifth neighbour, and
        ``expected_coverage``, what a perfect generator would have on average; ``audited``, how many were asked.
    """
    if real is None or len(real) < FEWEST_AUDITED:
        return {**NOT_AUDITED, "audited": 0}
    rng = torch.Generator().manual_seed(stage_seed(seed, "audit"))
    order = torch.randperm(len(real), generator=rng).to(real.values.device)
    wanted = real[order[:count]].to(reference_of(inverse.generator).device)
    scores = inverse.scores(wanted)
    noise = torch.randn(len(wanted), inverse.style_dim, generator=rng)
    told = ask(draw_images(inverse, latents_of(inverse, scores, noise), value_range)).to("cpu")
    wanted, others = wanted.to("cpu"), real[order[count : 2 * count]].to("cpu")
    match = proportion_of(int((told.labels == wanted.labels).sum()), len(wanted))
    found: dict[str, Any] = {
        "class_match": match.value,
        "class_match_interval": [match.low, match.high],
        "score_error": float((told.probabilities() - wanted.probabilities()).abs().mean()),
        "coverage": None,
        "audited": len(wanted),
    }
    if len(others) >= FEWEST_AUDITED:
        known, made = (inverse.scores(one) for one in (others, told))
        region = coverage(known, made)
        found |= {"coverage": region.coverage.value, "expected_coverage": region.expected_coverage}
    return found


def latents_of(inverse: Inverse, scores: Tensor, noise: Tensor) -> Tensor:
    """The generator's latents ``(N, C + style_dim)`` for centred scores ``(N, C)`` and noise ``(N, style_dim)``."""
    return torch.cat([inverse.normalisation(scores), noise.to(scores)], dim=1)


@torch.no_grad()
def draw_images(inverse: Inverse, latents: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Images of latents, in the teacher's value range."""
    low, high = value_range
    parts = [inverse.generator(part) for part in latents.split(_ROWS_AT_A_TIME)]
    return (low + (torch.cat(parts) + 1) * (high - low) / 2).clamp(low, high)

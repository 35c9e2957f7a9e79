"""Sinkhorn alignment: the batch's student scores are moved onto the teacher's by optimal transport.

Source: the loss is the debiased Sinkhorn divergence of Feydy, Séjourné, Vialard, Amari, Trouvé, Peyré, *Interpolating
between Optimal Transport and MMD using Sinkhorn Divergences*, AISTATS 2019, equation 3, through POT's torch backend.
That a student may be distilled batch by batch with a Sinkhorn distance of its outputs to the teacher's is due to Cui et
al., *Sinkhorn Distance Minimization for Knowledge Distillation*, LREC-COLING 2024. It does without a second player what
:class:`~mekd_plugin.baselines.distribution_alignment.DistributionAlignment` does with a critic.

Departures:
- two sets of points do not tell which image an answer belongs to, and a student that mixes images up may match the
  teacher's set: the divergence of Hinton et al. stands beside it, as in distribution alignment;
- scores are centred and divided by the mean length of the teacher's in the batch, so that ``reg`` has the same meaning
  for every teacher;
- the gradient is that of the envelope theorem: the plans are held fixed while the costs are differentiated, which is
  exact where the scaling iterations have converged.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.distiller import Needs, Student
from mekd_plugin.errors import InputError
from mekd_plugin.functional import kd_divergence
from mekd_plugin.pot import ot
from mekd_plugin.responses import centre_scores
from mekd_plugin.rows import Rows
from mekd_plugin.transfer import TransferSetDistiller

__all__ = ["SinkhornAlignment", "sinkhorn_loss"]

_TOLERANCE = 1e-6  # of the marginals


def sinkhorn_loss(x: Tensor, y: Tensor, *, reg: float, iterations: int = 20) -> Tensor:
    r"""The debiased Sinkhorn divergence between two sets of points of equal weights, with squared Euclidean costs:

    .. math:: S(x, y) = OT_r(x, y) - \tfrac12 OT_r(x, x) - \tfrac12 OT_r(y, y), \quad
              OT_r(x, y) = \min_P \langle P, C \rangle + r\, KL(P \,|\, w_x w_y^\top)

    Args:
        x: ``(N, d)``, the set that is moved: the gradient goes to it, and to ``y`` if that asks for one.
        y: ``(M, d)``.
        reg: r, positive, in the unit of the cost.
        iterations: at most, of the log-domain scaling for each of the three problems.

    Returns:
        a scalar: 0 where both sets are the same, not negative once the iterations have converged.

    Raises:
        InputError: shapes that do not fit, or a ``reg`` that is not positive.

    >>> points = torch.tensor([[0.0], [1.0]])
    >>> round(float(sinkhorn_loss(points + 2, points, reg=1.0)), 2)  # a translation is measured in full
    4.0
    """
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise InputError(f"points of shapes {tuple(x.shape)} and {tuple(y.shape)}: expected (N, d) and (M, d)")
    if not reg > 0:
        raise InputError(f"reg={reg}: expected a positive number in the unit of the cost")
    within_x, within_y = _entropic(x, x, reg, iterations), _entropic(y, y, reg, iterations)
    return _entropic(x, y, reg, iterations) - (within_x + within_y) / 2


def _entropic(x: Tensor, y: Tensor, reg: float, iterations: int) -> Tensor:
    """OT_r, whose gradient is that of the cost under the plan."""
    cost = (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(dim=2)
    a, b = torch.full_like(cost[:, 0], 1 / len(x)).detach(), torch.full_like(cost[0], 1 / len(y)).detach()
    plan: Tensor = ot.sinkhorn(
        a, b, cost.detach(), reg, method="sinkhorn_log", numItermax=iterations, stopThr=_TOLERANCE, warn=False
    )
    against = torch.special.xlogy(plan, plan / (a.unsqueeze(1) * b)).sum()
    value: Tensor = (plan * cost).sum() + reg * against
    return value


class SinkhornAlignment(TransferSetDistiller):
    """Minimises ``w_kl t^2 KL(softmax(y_T / t) || softmax(y_S / t)) + w_ot S(y_S, y_T)`` on the transfer set.

    Args:
        temperature: t of the divergence, positive.
        divergence_weight: w_kl, at least 0.
        transport_weight: w_ot, at least 0.
        reg: of the transport, positive, as part of the mean squared length of the teacher's scores.
        iterations: the most that the scaling takes, at least 1.
        queries: see :class:`TransferSetDistiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(
        responses="soft",
        leaves_edge="real images",
        host_sync="POT reads the marginal error to see whether the scaling has converged",
    )
    presets: ClassVar = {"quick": {}, "paper": {}, "tiny": {"iterations": 5}}
    reference: ClassVar = "Feydy et al., *Interpolating between OT and MMD using Sinkhorn Divergences*, AISTATS 2019"

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        divergence_weight: float = 1.0,
        transport_weight: float = 1.0,
        reg: float = 0.1,
        iterations: int = 20,
        queries: int | None = None,
        **world: Any,
    ) -> None:
        super().__init__(queries=queries, **world)
        self.temperature = as_number("temperature", temperature, above=0)
        self.divergence_weight = as_number("divergence_weight", divergence_weight, at_least=0)
        self.transport_weight = as_number("transport_weight", transport_weight, at_least=0)
        self.reg = as_number("reg", reg, above=0)
        self.iterations = as_whole("iterations", iterations, at_least=1)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        logits, scores = student(rows.images), rows.answers().scores()
        divergence = kd_divergence(logits, scores, self.temperature)
        unit = scores.square().sum(dim=1).mean().sqrt().clamp_min(torch.finfo(scores.dtype).eps)
        transport = sinkhorn_loss(centre_scores(logits) / unit, scores / unit, reg=self.reg, iterations=self.iterations)
        loss = self.divergence_weight * divergence + self.transport_weight * transport
        return {"loss": loss, "divergence": divergence, "transport": transport}

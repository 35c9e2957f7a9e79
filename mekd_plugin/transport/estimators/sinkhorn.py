"""Entropic transport, debiased: the Sinkhorn divergence."""

from __future__ import annotations

import warnings
from typing import NamedTuple, get_args

from torch import Tensor

from mekd_plugin.errors import InputError
from mekd_plugin.pot import ot
from mekd_plugin.transport.estimates import Estimate, join_notes
from mekd_plugin.transport.estimators.exact import Order, cost_matrix
from mekd_plugin.transport.samples import Points, as_pair, draw, generator

__all__ = ["SINKHORN_POINTS", "sinkhorn_divergence"]

SINKHORN_POINTS = 1000
"""Larger sets are subsampled: on more points a thousand log-domain iterations would take minutes."""
_ITERATIONS = 1000
_TOLERANCE = 1e-6


class _Entropic(NamedTuple):
    value: float
    log_domain: bool
    error: float


def sinkhorn_divergence(
    x: Points,
    y: Points,
    *,
    reg: float | None = None,
    order: Order = 2,
    weights_x: Points | None = None,
    weights_y: Points | None = None,
    seed: int = 0,
) -> Estimate:
    r"""Debiased entropic transport, to the power 1/p so that it is in the unit of the points and tends to W_p with
    ``reg`` to 0:

    .. math:: S(x, y)^p = OT_r(x, y) - \tfrac12 OT_r(x, x) - \tfrac12 OT_r(y, y), \quad
              OT_r(x, y) = \min_P \langle P, C \rangle + r\, KL(P \,|\, w_x w_y^\top)

    0 exactly where both distributions are equal. Scaling iterations are tried first; where they overflow, or leave a
    marginal error above 1e-6 after 1,000 rounds, the problem is solved again in the log domain, which ``note`` says,
    with the error that is left if that does not converge either.

    Args:
        x: ``(N, ...)``; beyond 1,000 points a random 1,000 of them, which ``note`` says.
        y: ``(M, ...)``, the same.
        reg: r, positive, in the unit of the cost; None is 0.05 times the median cost between x and y.
        order: p, 1 or 2.
        weights_x: as in :func:`~mekd_plugin.transport.estimators.distances.wasserstein`.
        weights_y: the same for y.
        seed: of the subsample.

    Raises:
        InputError: as ``wasserstein``; a ``reg`` that is not positive.

    Source: Feydy et al., *Interpolating between Optimal Transport and MMD using Sinkhorn Divergences*, AISTATS 2019,
    equation 3.

    >>> import torch
    >>> x = torch.linspace(0, 1, 20)
    >>> round(sinkhorn_divergence(x, x + 2).value, 3)  # a translation is measured in full
    2.0
    """
    if order not in get_args(Order):
        raise InputError(f"order={order!r}: expected 1 or 2")
    if reg is not None and not 0 < reg < float("inf"):
        raise InputError(f"reg={reg}: expected a positive number in the unit of the cost, or None")
    first, second = as_pair(x, y, weights_x, weights_y)
    size, rng = (len(first), len(second)), generator(seed)
    subsampled = max(size) > SINKHORN_POINTS
    first, second = draw(first, SINKHORN_POINTS, rng), draw(second, SINKHORN_POINTS, rng)
    costs = [cost_matrix(a.points, b.points, order) for a, b in ((first, second), (first, first), (second, second))]
    if reg is None:
        reg = 0.05 * (float(costs[0].median()) or float(costs[0].mean()) or 1.0)
    masses = (first.masses(), second.masses())
    across, within_x, within_y = (
        _entropic(masses[i], masses[j], cost, reg) for (i, j), cost in zip(((0, 1), (0, 0), (1, 1)), costs, strict=True)
    )
    value = max(across.value - (within_x.value + within_y.value) / 2, 0.0) ** (1 / order)
    parts = (across, within_x, within_y)
    error = max(part.error for part in parts)
    note = join_notes(
        first.note,
        second.note,
        f"reg {reg:.4g}",
        f"on {len(first)} and {len(second)} of the points, drawn at random" if subsampled else "",
        "scaling iterations did not converge: log domain" if any(part.log_domain for part in parts) else "",
        f"not converged: marginal error {error:.1e}" if error > _TOLERANCE else "",
    )
    return Estimate(value, "sinkhorn", size=size, note=note)


def _entropic(a: Tensor, b: Tensor, cost: Tensor, reg: float) -> _Entropic:
    """OT_r by its dual value <a, f> + <b, g>, exact at convergence and a lower bound before."""
    scaling = {"numItermax": _ITERATIONS, "stopThr": _TOLERANCE, "log": True, "warn": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an overflow; the note reports it after the second try
        _, log = ot.sinkhorn(a, b, cost, reg, method="sinkhorn", **scaling)
    u, v = log["u"].log(), log["v"].log()
    # no error is recorded where the first iteration overflowed
    log_domain = not (log["err"] and float(log["err"][-1]) <= _TOLERANCE and bool((u.sum() + v.sum()).isfinite()))
    if log_domain:
        _, log = ot.sinkhorn(a, b, cost, reg, method="sinkhorn_log", **scaling)
        u, v = log["log_u"], log["log_v"]
    value = reg * float((a * (u - a.log())).sum() + (b * (v - b.log())).sum())
    return _Entropic(value, log_domain, float(log["err"][-1]))

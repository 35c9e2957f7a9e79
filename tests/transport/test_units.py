"""A distance is in the unit of the points, however small or large that is."""

from __future__ import annotations

import pytest
import torch

from mekd_plugin.transport import (
    as_sample,
    bures_wasserstein,
    labelled_distance,
    low_rank,
    minibatch,
    sinkhorn_divergence,
    sliced,
    transport_cells,
    unmatched,
    wasserstein,
)

X, Y = (torch.randn(60, 3, generator=torch.Generator().manual_seed(seed)).double() + seed / 3 for seed in (0, 1))
LABELS = torch.arange(60) % 3


@pytest.mark.parametrize("unit", [1e-12, 1e-7, 1e7])
@pytest.mark.parametrize(
    "measured",
    [
        lambda x, y: wasserstein(x, y, order=1).value,
        lambda x, y: wasserstein(x, y, order=2).value,
        lambda x, y: sliced(as_sample(x), as_sample(y), order=2).value,
        lambda x, y: sinkhorn_divergence(x, y).value,
        lambda x, y: bures_wasserstein(x, y).value,
        lambda x, y: minibatch(as_sample(x), as_sample(y), order=2).value,
        lambda x, y: low_rank(as_sample(x), as_sample(y), order=2, rank=5).value,
        lambda x, y: labelled_distance(x, y, LABELS, LABELS).distance.value,
        lambda x, y: transport_cells(x, y[:5]).w2,
        lambda x, y: unmatched(x, y, share=0.5).cost,
        lambda x, y: unmatched(x, y, reach=float(x.std())).cost,
    ],
    ids="w1 w2 sliced sinkhorn bures minibatch low_rank labelled cells share reach".split(),
)
def test_distances_are_in_the_unit_of_the_points(measured, unit):
    """A solver that takes small differences for none would see no difference at all between small points."""
    assert measured(unit * X, unit * Y) == pytest.approx(unit * measured(X, Y), rel=1e-3)

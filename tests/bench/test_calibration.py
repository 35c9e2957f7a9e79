"""Calibration by hand, against a naive loop, and what is refused."""

from __future__ import annotations

import pytest
import torch

from mekd_plugin.bench.calibration import expected_calibration_error
from mekd_plugin.errors import InputError


def by_loops(logits, labels, bins):
    gap, probabilities = 0.0, logits.double().softmax(1)
    for part in range(bins):
        inside = [row for row in range(len(labels)) if part / bins < probabilities[row].max() <= (part + 1) / bins]
        if inside:
            right = sum(int(probabilities[row].argmax() == labels[row]) for row in inside) / len(inside)
            sure = sum(float(probabilities[row].max()) for row in inside) / len(inside)
            gap += len(inside) / len(labels) * abs(right - sure)
    return gap


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_it_is_the_sum_over_the_bins(bins):
    rng = torch.Generator().manual_seed(bins)
    logits, labels = 3 * torch.randn(300, 5, generator=rng), torch.randint(5, (300,), generator=rng)
    assert expected_calibration_error(logits, labels, bins=bins) == pytest.approx(by_loops(logits, labels, bins))


def test_the_truth_is_calibrated_and_a_sharper_one_is_not():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=rng)
    labels = torch.multinomial(logits.softmax(1), 1, generator=rng).squeeze(1)
    assert expected_calibration_error(logits, labels) < 0.02 < 0.2 < expected_calibration_error(5 * logits, labels)


def test_shapes_that_do_not_fit_are_refused():
    for logits, labels in (
        (torch.zeros(3, 2), torch.zeros(2)),
        (torch.zeros(0, 2), torch.zeros(0)),
        (torch.zeros(3),) * 2,
    ):
        with pytest.raises(InputError, match="expected .N, C. and .N,., N at least 1"):
            expected_calibration_error(logits, labels)
    with pytest.raises(InputError, match="bins=0"):
        expected_calibration_error(torch.zeros(1, 2), torch.zeros(1), bins=0)

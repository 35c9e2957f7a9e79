"""What is taken for points and weights, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.transport.samples import Sample, as_labels, as_pair, as_points, as_sample, draw, generator


def test_images_are_flattened_and_numbers_become_a_column():
    assert as_points(torch.zeros(3, 1, 4, 4)).shape == (3, 16)
    assert as_points(np.arange(5)).tolist() == [[0.0], [1.0], [2.0], [3.0], [4.0]]


def test_floating_points_are_not_copied_and_half_precision_is_widened():
    x = torch.randn(4, 2)
    assert as_points(x).data_ptr() == x.data_ptr()
    assert as_points(x.bfloat16()).dtype == torch.float64
    assert not as_points(x.requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[1.0]], "x is a list: expected a torch tensor"),
        (torch.zeros(0, 3), r"x of shape \(0, 3\): expected at least one point"),
        (torch.tensor(1.0), r"x of shape \(\)"),
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (np.array([1.0, -np.inf]), "not finite"),
        (torch.zeros(2, 2, dtype=torch.complex64), "x is complex"),
    ],
)
def test_what_is_no_points_is_refused(points, message):
    with pytest.raises(InputError, match=message):
        as_points(points)


def test_weights_are_scaled_to_one_and_said_to_be():
    sample = as_sample(torch.arange(3.0), torch.tensor([1.0, 0.0, 3.0]))
    assert sample.points.flatten().tolist() == [0.0, 2.0]  # a point without weight is no point
    assert sample.masses().tolist() == [0.25, 0.75]
    assert "weights of x summed to 4 and were scaled to 1" in sample.note
    assert as_sample(torch.arange(2.0), np.array([0.5, 0.5])).note == ""


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.5], r"weights of x of shape \(2,\): expected one a point, \(3,\)"),
        ([1.0, -0.1, 0.1], "expected finite weights of at least 0"),
        ([0.0, 0.0, 0.0], "with a positive sum"),
        ([1.0, float("nan"), 1.0], "expected finite weights"),
        ([1.0, float("inf"), 1.0], "expected finite weights"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights, message):
    with pytest.raises(InputError, match=message):
        as_sample(torch.arange(3.0), np.array(weights))


def test_two_spaces_are_refused():
    with pytest.raises(InputError, match="x has 2 coordinates a point, y has 3"):
        as_pair(torch.zeros(4, 2), torch.zeros(4, 3))


def test_two_devices_are_refused():
    with pytest.raises(InputError, match="x on cpu, y on meta"):
        as_pair(torch.zeros(4, 2), _OnMeta(torch.zeros(4, 2)))


class _OnMeta(torch.Tensor):
    """Real values that say they are elsewhere: there is no second device with values here."""

    device = torch.device("meta")


@pytest.mark.parametrize("labels", [torch.zeros(2), torch.zeros(3, dtype=torch.long), torch.tensor([True, False])])
def test_labels_of_another_kind_are_refused(labels):
    with pytest.raises(InputError, match=r"labels of shape .* expected \(2,\) class indices"):
        as_labels(labels, 2, 5, "labels")


@pytest.mark.parametrize("labels", [[0, 5], [-1, 0]])
def test_labels_out_of_range_are_refused(labels):
    with pytest.raises(InputError, match=r"expected \[0, 5\)"):
        as_labels(np.array(labels), 2, 5, "labels")


def test_a_draw_is_of_the_sample_and_a_seed_repeats_it():
    sample = as_sample(torch.arange(100.0))
    first, again = (draw(sample, 10, generator(3)).points.flatten() for _ in range(2))
    assert first.equal(again) and len(first.unique()) == 10
    assert draw(sample, 100, generator(3)) is sample


def test_a_weighted_draw_expects_the_weights():
    sample = Sample(torch.tensor([[0.0]] * 50 + [[1.0]] * 50), torch.tensor([0.004] * 50 + [0.016] * 50).double())
    rng = generator(0)
    means = [float(draw(sample, 20, rng).points.mean()) for _ in range(400)]
    assert np.mean(means) == pytest.approx(0.8, abs=0.02)  # standard error 0.0045

"""The Sinkhorn loss against naive scaling in plain loops, the package's own estimator, and exact transport."""

import math

import ot
import pytest
import torch
from mekd_plugin.baselines.sinkhorn_alignment import SinkhornAlignment, sinkhorn_loss

from mekd_plugin.errors import InputError
from mekd_plugin.functional import kd_divergence
from mekd_plugin.responses import Response, centre_scores
from mekd_plugin.rows import Rows
from mekd_plugin.transport import sinkhorn_divergence


def points(count, seed, dimension=3):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_transport(x, y, reg):
    """OT_r by Sinkhorn's scaling, number by number."""
    cost = [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in y] for p in x]
    kernel = [[math.exp(-c / reg) for c in row] for row in cost]
    u, v = [1.0] * len(x), [1.0] * len(y)
    for _ in range(500):
        u = [1 / len(x) / sum(k * w for k, w in zip(row, v, strict=True)) for row in kernel]
        v = [1 / len(y) / sum(kernel[i][j] * u[i] for i in range(len(x))) for j in range(len(y))]
    total = 0.0
    for i in range(len(x)):
        for j in range(len(y)):
            mass = u[i] * kernel[i][j] * v[j]
            total += mass * cost[i][j] + reg * mass * math.log(mass * len(x) * len(y))
    return total


def test_the_loss_is_the_debiased_divergence_of_naive_scaling():
    x, y, reg = points(5, 0), points(4, 1), 1.0
    a, b = x.tolist(), y.tolist()
    expected = naive_transport(a, b, reg) - naive_transport(a, a, reg) / 2 - naive_transport(b, b, reg) / 2
    assert float(sinkhorn_loss(x, y, reg=reg, iterations=500)) == pytest.approx(expected, rel=1e-3)


def test_it_is_what_the_diagnosis_measures_and_tends_to_exact_transport():
    x, y = points(20, 0), points(20, 1) + 0.5
    measured = sinkhorn_divergence(x, y, reg=0.5).value ** 2
    assert float(sinkhorn_loss(x, y, reg=0.5, iterations=1000)) == pytest.approx(measured, rel=1e-3)
    exact = float(ot.solve_sample(x, y).value)
    assert float(sinkhorn_loss(x, y, reg=0.02, iterations=3000)) == pytest.approx(exact, rel=0.05)


def test_two_equal_sets_are_at_zero_with_no_gradient():
    x = points(10, 0).requires_grad_()
    loss = sinkhorn_loss(x, x.detach().flip(0), reg=0.3, iterations=500)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4), "the order of the points does not matter"
    assert torch.autograd.grad(loss, x)[0].abs().max() < 1e-3


def test_the_gradient_is_that_of_finite_differences():
    x, y = points(6, 0), points(6, 1)
    moved = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sinkhorn_loss(moved, y, reg=1.0, iterations=1000), moved)
    for place in [(0, 0), (3, 2), (5, 1)]:
        step = torch.zeros_like(x)
        step[place] = 1e-3
        high, low = (float(sinkhorn_loss(x + sign * step, y, reg=1.0, iterations=1000)) for sign in (1, -1))
        assert float(gradient[place]) == pytest.approx((high - low) / 2e-3, abs=2e-3)


def test_the_method_adds_the_divergence_and_measures_scores_by_the_teachers_length():
    teacher, student = points(8, 0).float() * 7, points(8, 1).float()
    rows = Rows(torch.zeros(8, 1, 4, 4), Response(teacher, "logits", 3))
    method = SinkhornAlignment(
        temperature=2.0, divergence_weight=0.5, transport_weight=3.0, reg=0.2, num_classes=3, image_shape=(1, 4, 4)
    )
    parts = method.losses(lambda images: student, rows)
    scores = centre_scores(teacher)
    unit = (sum(sum(value**2 for value in row) for row in scores.tolist()) / 8) ** 0.5
    transport = sinkhorn_loss(centre_scores(student) / unit, scores / unit, reg=0.2)
    assert float(parts["transport"]) == pytest.approx(float(transport), rel=1e-4)
    expected = 0.5 * float(kd_divergence(student, teacher, 2.0)) + 3.0 * float(transport)
    assert float(parts["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_student_far_off_keeps_a_finite_gradient():
    x = (1e4 * points(8, 0)).float().requires_grad_()
    (gradient,) = torch.autograd.grad(sinkhorn_loss(x, points(8, 1).float(), reg=0.1), x)
    assert gradient.isfinite().all()


def test_what_is_no_set_of_points_is_refused():
    with pytest.raises(InputError, match=r"\(3,\) and \(3, 2\)"):
        sinkhorn_loss(torch.zeros(3), torch.zeros(3, 2), reg=0.1)
    with pytest.raises(InputError, match="reg=0"):
        sinkhorn_loss(torch.zeros(3, 2), torch.zeros(3, 2), reg=0)

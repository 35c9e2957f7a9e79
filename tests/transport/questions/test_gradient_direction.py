from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from mekd_plugin.errors import InputError
from mekd_plugin.functional import kd_divergence, logit_mse
from mekd_plugin.transport.questions.gradient_direction import gradient_direction, nearest_boundary


def scores(count: int, classes: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(2, 8), st.integers(0, 1000))
def test_the_squared_error_goes_straight_to_the_teacher(count, classes, seed):
    student, teacher = scores(count, classes, seed), scores(count, classes, seed + 1)
    found = gradient_direction(partial(logit_mse, teacher_scores=teacher), student, teacher)
    torch.testing.assert_close(found.to_teacher, torch.zeros(count, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.orthogonal_share, torch.zeros(count, dtype=torch.float64), atol=1e-8, rtol=0)
    torch.testing.assert_close(found.to_boundary, found.line_to_boundary, atol=1e-5, rtol=0)


def test_away_from_the_teacher_is_180_degrees():
    student, teacher = scores(4, 3, 0), scores(4, 3, 1)
    found = gradient_direction(lambda y: -logit_mse(y, teacher), student, teacher)
    torch.testing.assert_close(found.to_teacher, torch.full((4,), 180.0, dtype=torch.float64))


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 8), st.integers(0, 1000))
def test_plain_kd_goes_along_the_difference_of_the_probabilities(classes, seed):
    student, teacher = scores(5, classes, seed), scores(5, classes, seed + 1)
    found = gradient_direction(partial(kd_divergence, teacher_scores=teacher, temperature=4.0), student, teacher)
    way = (teacher / 4).softmax(1) - (student / 4).softmax(1)
    line = (teacher - student) - (teacher - student).mean(1, keepdim=True)
    cosine = (way * line).sum(1) / way.norm(dim=1) / line.norm(dim=1)
    torch.testing.assert_close(found.to_teacher, cosine.clamp(-1, 1).acos().rad2deg(), atol=1e-5, rtol=1e-5)


def test_by_hand_through_a_linear_generator():
    # |A (y_S - y_T)|^2 has the gradient 2 A'A (y_S - y_T). With A'A = diag(4, 1, 1), y_T - y_S = (1, -1, 0) the step
    # is along (4, -1, 0), centred (3, -2, -1): cosine 5 / sqrt(14 * 2).
    student, teacher = torch.zeros(1, 3), torch.tensor([[1.0, -1.0, 0.0]])
    generator = torch.tensor([2.0, 1.0, 1.0])
    found = gradient_direction(lambda y: ((y - teacher) * generator).square().sum(), student, teacher)
    assert found.to_teacher.item() == pytest.approx(math.degrees(math.acos(5 / math.sqrt(28))))
    assert found.orthogonal_share.item() == pytest.approx(math.sqrt(1 - 25 / 28))


def test_the_boundary_by_hand():
    # Inside class 0, runner-up 1 at a distance of (2 - 1)/sqrt 2: the way there is along (-1, 1, 0).
    student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[5.0, 0.0, 0.0]])
    toward = gradient_direction(lambda y: (y[:, 0] - y[:, 1]).sum(), student, teacher)
    assert toward.to_boundary.item() == pytest.approx(0.0, abs=1e-6) and bool(toward.inside)
    assert toward.boundary_distance.item() == pytest.approx(1 / math.sqrt(2))
    # The line to the teacher is (3, -1, 0), centred (7, -5, -2)/3: cosine -12 / sqrt(78 * 2), away from the boundary.
    assert toward.line_to_boundary.item() == pytest.approx(math.degrees(math.acos(-12 / math.sqrt(156))))
    # Outside class 2 the cell is nearest at (1, 1, 1), along (-1, 0, 1).
    leaving = gradient_direction(lambda y: (y[:, 2] - y[:, 0]).sum(), student, torch.tensor([[0.0, 0.0, 5.0]]))
    assert not leaving.inside and leaving.to_boundary.item() == pytest.approx(180.0)
    assert leaving.boundary_distance.item() == pytest.approx(math.sqrt(2))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_outside_the_nearest_point_is_scipys_projection_on_the_cell(classes, seed):
    outside = scores(1, classes, seed)
    own = int(outside.argmin())
    found = nearest_boundary(outside, torch.tensor([own]))[0].numpy()
    rows = [np.eye(classes)[own] - np.eye(classes)[k] for k in range(classes) if k != own]
    projected = optimize.minimize(
        lambda p: 0.5 * ((p - outside[0].numpy()) ** 2).sum(),
        np.full(classes, float(outside.mean())),
        jac=lambda p: p - outside[0].numpy(),
        constraints={"type": "ineq", "fun": lambda p: np.array(rows) @ p, "jac": lambda p: np.array(rows)},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(found, projected.x, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7), st.integers(0, 1000))
def test_inside_it_is_the_nearest_of_the_hyperplanes(classes, seed):
    rows = scores(6, classes, seed)
    own = rows.argmax(1)
    distance = (nearest_boundary(rows, own) - rows).norm(dim=1)
    gaps = (rows.gather(1, own[:, None]) - rows).scatter(1, own[:, None], math.inf)
    torch.testing.assert_close(distance, gaps.amin(1) / math.sqrt(2))


def test_directions_that_are_zero_have_no_angle():
    student = torch.tensor([[1.0, 0.0, -1.0], [1.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0, -1.0], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = gradient_direction(lambda y: (y[:2] * torch.tensor([1.0, 2.0, 4.0])).sum(), student, teacher)
    assert found.to_teacher.isnan().tolist() == [True, False, True]  # equal to the teacher; ok; no gradient
    assert found.to_boundary.isnan().tolist() == [False, True, True]  # ok; on the boundary; no gradient
    record = json.loads(json.dumps(found.as_record(bins=4), allow_nan=False))
    assert record["to_teacher"]["undefined"] == 2 and sum(record["to_teacher"]["shares"]) == 1
    assert record["random"]["shares"] == pytest.approx([0.25] * 4)  # three classes: a plane
    assert [record["to_boundary"][side]["undefined"] for side in ("inside", "outside")] == [1, 1]
    # The third line is along (-4, 2, 2), the way to its cell along (-1, 1, 0): cosine sqrt 3 / 2.
    assert record["line_to_boundary"]["outside"]["quartiles"] == pytest.approx([30.0] * 3)
    length = math.sqrt(14 / 3)  # of (1, 2, 4) less its mean
    assert record["norm"] == pytest.approx([length / 2, length, length]) and record["inside"] == pytest.approx(2 / 3)


def test_an_all_undefined_record_says_so():
    teacher = scores(2, 3, 0)
    record = gradient_direction(partial(logit_mse, teacher_scores=teacher), teacher, teacher).as_record()
    assert record["to_teacher"]["quartiles"] is None and record["to_teacher"]["undefined"] == 2


def test_works_where_gradients_are_switched_off_and_leaves_the_students_scores_alone():
    student, teacher = scores(2, 3, 0), scores(2, 3, 1)
    with torch.no_grad():
        found = gradient_direction(partial(logit_mse, teacher_scores=teacher), student, teacher)
    assert found.to_teacher.isfinite().all() and not student.requires_grad and student.grad is None


@pytest.mark.parametrize(
    ("loss", "student", "message"),
    [
        (lambda y: y, torch.zeros(2, 3), "scalar that depends on the scores"),
        (lambda y: torch.tensor(1.0), torch.zeros(2, 3), "scalar that depends on the scores"),
        (lambda y: torch.ones((), requires_grad=True), torch.zeros(2, 3), "let it use its argument"),
        (lambda y: y.sqrt().sum(), torch.zeros(2, 3), "not finite"),
        (lambda y: y.sum(), torch.zeros(3, 3), "one row for each image"),
        (lambda y: y.sum(), torch.full((2, 3), math.nan), "not finite"),
    ],
)
def test_refuses(loss, student, message):
    with pytest.raises(InputError, match=message):
        gradient_direction(loss, student, torch.ones(2, 3))


def test_refuses_a_single_class():
    with pytest.raises(InputError, match="at least two classes"):
        gradient_direction(lambda y: y.sum(), torch.zeros(2, 1), torch.ones(2, 1))

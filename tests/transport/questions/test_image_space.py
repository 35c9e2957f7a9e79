from __future__ import annotations

import json
import math

import pytest
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.transport import wasserstein
from mekd_plugin.transport.questions.image_space import track


def normal(count: int, dimension: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TEACHER = normal(40, 3)
U, V = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64) / torch.tensor([[2.0], [6.0]]).sqrt()


def test_an_isometry_has_the_same_distance_in_both_spaces():
    rotation = torch.linalg.qr(normal(3, 3, 5)).Q
    students = {0: TEACHER + normal(40, 3, 1), 100: TEACHER + 0.5 * normal(40, 3, 2), 200: TEACHER.clone()}
    found = track(lambda y: (y @ rotation).reshape(-1, 1, 1, 3), students, TEACHER)
    for at in found.snapshots:
        assert at.image_distance.value == pytest.approx(at.logit_distance.value)
    assert found.levels.value == 1 and not found.partings
    assert found.snapshots[0].across_images.value == pytest.approx(1.0, abs=1e-3)
    assert found.snapshots[-1].across_images.value is None  # nothing left to rank
    assert found.snapshots[-1].image_distance.value == 0


def test_by_hand_where_a_generator_is_blind_to_a_direction_both_part():
    # G sees <y, U> only. From 2U to U + 3V the image distance falls from 2 to 1, the logits' rises from 2 to sqrt 10.
    students = {30: TEACHER + U / 2, 0: TEACHER + 2 * U, 10: TEACHER + U + 3 * V, 20: TEACHER + U + V}
    found = track(lambda y: y @ U[:, None], students, TEACHER)
    assert [at.step for at in found.snapshots] == [0, 10, 20, 30]
    assert [at.image_distance.value for at in found.snapshots] == pytest.approx([2, 1, 1, 0.5])
    assert [at.logit_distance.value for at in found.snapshots] == pytest.approx([2, math.sqrt(10), math.sqrt(2), 0.5])
    (parting,) = found.partings  # between 10 and 20 the image distance stays
    assert (parting.start, parting.stop) == (0, 10)
    assert parting.image_change == pytest.approx(-1) and parting.logit_change == pytest.approx(math.sqrt(10) - 2)
    # Ranks: images 4, 2.5, 2.5, 1; logits 3, 4, 2, 1: rho = 3 / sqrt(4.5 * 5).
    assert found.levels.value == pytest.approx(3 / math.sqrt(22.5))
    assert found.changes.size == 3


def test_a_change_of_less_than_a_hundredth_of_the_range_is_no_parting():
    students = {0: TEACHER + 2 * U, 1: TEACHER + U, 2: TEACHER + 0.995 * U + V}
    assert not track(lambda y: y @ U[:, None], students, TEACHER).partings
    (parting,) = track(lambda y: y @ U[:, None], students, TEACHER, least_change=0.001).partings
    assert (parting.start, parting.stop) == (1, 2)


def test_a_common_trend_correlates_levels_and_not_changes():
    # Both fall at every step, by amounts that have nothing to do with each other.
    image, logit = [8.0, 7.9, 6.0, 5.8, 3.0], [8.0, 5.0, 4.9, 1.0, 0.5]
    students = {
        step: TEACHER + i * U + math.sqrt(max(0.0, (i + j) ** 2 - i**2)) * V
        for step, (i, j) in enumerate(zip(image, logit, strict=True))
    }
    found = track(lambda y: y @ U[:, None], students, TEACHER)
    assert found.levels.value == 1
    assert found.changes.value is not None and found.changes.value < 1


def test_a_constant_per_image_is_no_distance():
    found = track(lambda y: y, {0: TEACHER + torch.arange(40.0)[:, None]}, TEACHER)
    assert found.snapshots[0].logit_distance.value == pytest.approx(0, abs=1e-9)
    assert found.snapshots[0].image_distance.value == pytest.approx(0, abs=1e-9)
    assert found.levels.value is None and found.changes.value is None


def test_with_a_transport_distance_a_student_that_permutes_the_images_is_at_0():
    mixed_up = TEACHER.roll(1, dims=0)
    assert track(lambda y: 2 * y, {0: mixed_up}, TEACHER).snapshots[0].logit_distance.value > 1
    found = track(lambda y: 2 * y, {0: mixed_up}, TEACHER, distance=wasserstein).snapshots[0]
    assert found.logit_distance.value == pytest.approx(0, abs=1e-7) and found.logit_distance.estimator == "exact"
    assert found.image_distance.value == pytest.approx(0, abs=1e-7)


def test_draws_the_teachers_images_once_and_without_a_gradient():
    calls = []
    weight = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)

    def generator(scores):
        calls.append(scores)
        images = scores @ weight
        assert not images.requires_grad
        return images

    found = track(generator, {0: TEACHER + U, 1: TEACHER + 0.5 * U}, TEACHER)
    assert len(calls) == 3
    record = json.loads(json.dumps(found.as_record(), allow_nan=False))
    assert [at["step"] for at in record["snapshots"]] == [0, 1] and record["levels"]["value"] is None


def test_refuses():
    with pytest.raises(InputError, match="no snapshots"):
        track(lambda y: y, {}, TEACHER)
    with pytest.raises(InputError, match="student at 7 of shape"):
        track(lambda y: y, {7: TEACHER[:5]}, TEACHER)
    with pytest.raises(InputError, match="drew 1 images from 40 rows"):
        track(lambda y: y[:1], {0: TEACHER}, TEACHER)

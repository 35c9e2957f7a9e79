import pytest
import torch

from mekd_plugin.mekd.health import generator_health
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows


def rows_of(images, labels, classes):
    return Rows(images, Response(labels, "hard", classes))


def test_a_healthy_generator_has_nothing_to_complain_of():
    real = torch.rand(60, 1, 8, 8) * 2 - 1
    made = rows_of(torch.rand(90, 1, 8, 8) * 2 - 1, torch.arange(90) % 3, 3)
    health = generator_health(made, real)
    assert health.warnings == [] and health.confidence is None
    assert health.class_shares == pytest.approx([1 / 3] * 3)


def test_a_missing_class_is_named():
    made = rows_of(torch.rand(90, 1, 8, 8) * 2 - 1, torch.arange(90) % 2, 3)
    (warning,) = generator_health(made, torch.rand(60, 1, 8, 8) * 2 - 1).warnings
    assert "hardly draws class 2 " in warning and "emulation.steps" in warning


def test_collapse_copies_and_noise_are_told_apart():
    real = torch.rand(60, 1, 8, 8) * 2 - 1
    labels = torch.arange(60) % 3
    collapsed = generator_health(rows_of(torch.zeros(60, 1, 8, 8), labels, 3), real).warnings
    assert any("mode collapse" in warning for warning in collapsed)
    copies = generator_health(rows_of(real.clone(), labels, 3), real).warnings
    assert any("may copy them" in warning for warning in copies)
    tight = torch.full((60, 1, 8, 8), -0.9) + 0.05 * torch.rand(60, 1, 8, 8)
    noise = generator_health(rows_of(torch.rand(60, 1, 8, 8).round() * 2 - 1, labels, 3), tight).warnings
    assert any("look like none of the real ones" in warning for warning in noise)


def test_distances_are_root_mean_squares_a_pixel():
    real = torch.stack([torch.full((1, 4, 4), value) for value in (-1.0, -0.5, 0.0)])
    made = rows_of(torch.stack([torch.full((1, 4, 4), value) for value in (0.2, 0.2, 0.2)]), torch.tensor([0, 1, 2]), 3)
    health = generator_health(made, real)
    assert health.distance_to_real == pytest.approx(0.2) and health.real_to_real == pytest.approx(0.5)


def test_of_a_thousand_classes_ten_are_named():
    made = rows_of(torch.rand(90, 1, 8, 8) * 2 - 1, torch.arange(90) % 3, 1000)
    (warning,) = generator_health(made, torch.rand(60, 1, 8, 8) * 2 - 1).warnings
    assert "class 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 987 others (under" in warning

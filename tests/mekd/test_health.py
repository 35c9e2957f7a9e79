import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.mekd.health import generator_health
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.training.evaluation import accuracy


def rows_of(images, labels, classes):
    return Rows(images, Response(labels, "hard", classes))


def shaded(labels, classes, seed=0):
    """Noise, a little brighter for each further class, so that an image shows what it is."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(labels), 1, 8, 8, generator=rng) - 0.5
    return noise + (labels.float() / classes - 0.5)[:, None, None, None]


def strokes(count, seed):
    """``(count, 1, 16, 16)``: one short bright stroke in noise, upright or lying: few pixels decide the class."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.full((count, 1, 16, 16), -0.5)
    for index, image in enumerate(images):
        top, left = torch.randint(0, 11, (2,), generator=rng).tolist()
        height, width = (5, 1) if index % 2 == 0 else (1, 5)
        image[0, top : top + height, left : left + width] = 0.5
    return (images + 0.15 * torch.randn(images.shape, generator=rng)).clamp(-1, 1)


def circles_and_squares(count, seed):
    """``(count, 1, 16, 16)``: filled, of any size and place, circles first."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.full((count, 1, 16, 16), -1.0)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    for index, image in enumerate(images):
        radius, across, down = (3 + 3 * torch.rand(3, generator=rng)).tolist()
        across, down = 4 + 1.3 * across, 4 + 1.3 * down
        if index < count // 2:
            inside = (x - across) ** 2 + (y - down) ** 2 <= radius**2
        else:
            inside = ((x - across).abs() <= 0.89 * radius) & ((y - down).abs() <= 0.89 * radius)
        image[0, inside] = 0.8
    return images + 0.05 * torch.randn(images.shape, generator=rng)


class TellsStrokes(nn.Module):
    """Knows lying strokes (class 1) by the sum of changes down the columns and along the rows."""

    def forward(self, images):
        along_rows = (images[..., 1:] - images[..., :-1]).abs().sum(dim=(1, 2, 3))
        down_columns = (images[..., 1:, :] - images[..., :-1, :]).abs().sum(dim=(1, 2, 3))
        return torch.stack([along_rows - down_columns, down_columns - along_rows], dim=1)


def test_a_healthy_generator_has_nothing_to_complain_of():
    labels = torch.arange(90) % 3
    health = generator_health(rows_of(shaded(labels, 3), labels, 3), shaded(torch.arange(60) % 3, 3, seed=1))
    assert health.warnings == [] and health.confidence is None and health.neighbour_agreement > 0.9
    assert health.class_shares == pytest.approx([1 / 3] * 3)


def test_a_missing_class_is_named():
    labels = torch.arange(90) % 2
    (warning,) = generator_health(rows_of(shaded(labels, 3), labels, 3), shaded(torch.arange(60) % 3, 3, 1)).warnings
    assert "hardly draws class 2 " in warning and "emulation.steps" in warning


def test_of_a_thousand_classes_those_are_named_that_are_drawn():
    labels = torch.arange(5000) % 3
    (warning,) = generator_health(rows_of(shaded(labels, 3), labels, 1000), shaded(labels[:60], 3, seed=1)).warnings
    assert "hardly draws 997 of 1,000 classes; the teacher answers most often 0, 1, 2 (under" in warning


def test_classes_that_chance_alone_leaves_out_are_not_missed():
    """1,500 answers over 1,000 classes leave about 220 without any, however fair the generator."""
    labels = torch.randint(0, 1000, (1500,), generator=torch.Generator().manual_seed(0))
    assert len(labels.unique()) < 800
    assert generator_health(rows_of(shaded(labels, 1000), labels, 1000), shaded(labels[:60], 1000, 1)).warnings == []


def test_answers_that_the_images_do_not_show_are_complained_of():
    labels = (torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.7).long()
    images = shaded(torch.zeros(400), 2)
    (warning,) = generator_health(rows_of(images, labels, 2), shaded(torch.zeros(60), 2, seed=1)).warnings
    assert "hardly depend on what these look like" in warning and "'kd'" in warning


def test_a_run_that_teaches_nothing_of_a_two_class_teacher_says_so():
    """Both classes are drawn, and nothing collapses; but what decides the class is too small for a young generator."""
    torch.manual_seed(0)
    student = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 2),
    )
    boundary = mekd.BlackBox(TellsStrokes(), "logits", 2, budget=400)
    settings = {
        "preset": "tiny",
        "emulation": "gan",
        "surrogate": None,
        "emulation_settings": {"steps": 20},
        "recipe": mekd.Recipe(steps=100),
    }
    with pytest.warns(UserWarning, match="hardly depend on what these look like"):
        result = mekd.distill(student, boundary, strokes(300, seed=1), "mekd", progress=False, device="cpu", **settings)
    fresh = strokes(300, seed=9)
    assert (TellsStrokes()(fresh).argmax(dim=1) == torch.arange(300) % 2).float().mean() > 0.98
    assert accuracy(student, fresh, torch.arange(300) % 2) < 0.65
    assert len(result.report["warnings"]) == 1 and min(result.report["generator"]["class_shares"]) > 0.2


@pytest.mark.parametrize("name", ["digits", "circles and squares"])
def test_images_that_show_their_class_are_not_complained_of(name):
    if name == "digits":
        digits = load_digits()
        images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(digits.target)
    else:
        images, labels = circles_and_squares(600, seed=0), (torch.arange(600) >= 300).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    generated, real = order[: len(order) // 2], order[len(order) // 2 :]
    classes = int(labels.max()) + 1
    health = generator_health(rows_of(images[generated], labels[generated], classes), images[real])
    assert health.warnings == [] and health.neighbour_agreement > max(health.class_shares) + 0.15


def test_too_few_images_for_a_class_are_not_judged_by_their_neighbours():
    labels = torch.arange(90) % 10
    health = generator_health(rows_of(shaded(labels * 0, 10), labels, 10), shaded(labels[:60] * 0, 10, seed=1))
    assert health.neighbour_agreement is None and health.warnings == []


def test_collapse_copies_and_noise_are_told_apart():
    labels = torch.arange(60) % 3
    real = shaded(labels, 3)
    collapsed = generator_health(rows_of(torch.zeros(60, 1, 8, 8), labels, 3), real).warnings
    (collapse,) = [warning for warning in collapsed if "mode collapse" in warning]
    assert "preset" not in collapse  # it may be the one in use
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

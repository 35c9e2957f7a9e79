"""DFME's distance and its felt-out gradient; every question of an iteration is counted."""

import pytest
import torch
from mekd_plugin.baselines.dfme import DFME, forward_difference, score_distance

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.rows import Shard
from mekd_plugin.testing import CLASSES, SHAPE, ToyTeacher, toy_student

WORLD = {"num_classes": CLASSES, "image_shape": SHAPE, "latent_dim": 16}


def test_the_distance_is_l1_of_centred_scores():
    logits, scores = torch.randn(4, 3), torch.randn(4, 3)
    for row, wanted, found in zip(logits.tolist(), scores.tolist(), score_distance(logits, scores), strict=True):
        a, b = sum(row) / 3, sum(wanted) / 3
        expected = sum(abs((x - a) - (y - b)) for x, y in zip(row, wanted, strict=True)) / 3
        assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_difference_is_the_equation():
    here, there, directions, epsilon = torch.randn(2), torch.randn(3, 2), torch.randn(3, 2, 1, 2, 2), 0.5
    found = forward_difference(here, there, directions, epsilon)
    for image in range(2):
        for pixel in range(4):
            expected = 0.0
            for way in range(3):
                slope = float(there[way, image] - here[image]) / epsilon
                expected += 4 * slope * float(directions[way, image].flatten()[pixel]) / 3
            assert float(found[image].flatten()[pixel]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_many_directions_find_the_gradient_of_a_linear_function():
    torch.manual_seed(0)
    slope, x = torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2)
    directions = torch.nn.functional.normalize(torch.randn(20_000, 1, 1, 2, 2).flatten(2), dim=2).view(-1, 1, 1, 2, 2)
    here, there = (x * slope).sum().view(1), ((x + 0.1 * directions) * slope).flatten(2).sum(dim=2)
    assert torch.allclose(forward_difference(here, there, directions, 0.1), slope, atol=0.1)


@pytest.mark.parametrize("directions", [1, 3])
def test_an_iteration_counts_each_question(directions):
    teacher = BlackBox(ToyTeacher(), "logits", CLASSES, budget=10_000)
    method = DFME(batch_size=4, directions=directions, student_updates=2, **WORLD)
    stage = next(method.stages(teacher, torch.empty(0, *SHAPE), toy_student()))
    updates = []
    stage.step(
        stage.rows.batch(0, stage.batch_size, Shard()),
        lambda losses: updates.extend(losses),
        lambda images: teacher.query(images, stage="play"),
    )
    assert teacher.ledger.total == method.questions == 4 * (1 + directions + 2)
    assert updates == ["generator", "clone", "clone"]
    assert len(stage.players["replay"].module) == 4 * (1 + 2), "displaced images are not kept"
    assert stage.steps * method.questions <= 10_000 < (stage.steps + 1) * method.questions


def test_the_slope_is_felt_out_in_full_precision():
    """Under autocast too: two points so near have the same scores in half precision, but for rounding."""

    def gradient(half: bool) -> torch.Tensor:
        teacher = BlackBox(ToyTeacher(), "logits", CLASSES, budget=10_000)
        torch.manual_seed(0)
        method = DFME(batch_size=64, **WORLD)
        stage = next(method.stages(teacher, torch.empty(0, *SHAPE), toy_student()))
        found = []

        def update(losses):
            if "generator" in losses:
                weights = list(stage.players["generator"].module.parameters())
                found.extend(torch.autograd.grad(losses["generator"], weights))

        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            batch = stage.rows.batch(0, stage.batch_size, Shard())
            stage.step(batch, update, lambda images: teacher.query(images, stage="play"))
        return torch.cat([part.flatten().float() for part in found])

    assert torch.cosine_similarity(gradient(True), gradient(False), dim=0) > 0.9


def test_a_budget_of_fewer_than_ten_iterations_is_refused():
    method = DFME(**WORLD)
    assert method.fewest_queries(0) == 10 * 16 * 7
    with pytest.raises(NeedsNotMet, match="at least 1,120 queries, and the query budget is 1,119"):
        method.check_budget(1119, 0)
    with pytest.raises(InputError, match="queries=100: expected at least 1,120, ten iterations"):
        DFME(queries=100, **WORLD)

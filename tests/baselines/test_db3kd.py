"""DB3KD: its searches against naive loops and a teacher whose boundaries are known, and what they cost."""

import math

import pytest
import torch
from mekd_plugin.baselines.db3kd import DB3KD, Boundary, bisect, nearest_of_class, turn

from mekd_plugin import distill
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import NeedsNotMet
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, DistillerContract, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

WORLD = {"num_classes": CLASSES, "image_shape": (1, 8, 8)}


class Plane:
    """Class 1 where the first pixel is above 0.3, else class 0; counts what it is asked."""

    asked = 0

    def __call__(self, images):
        self.asked += len(images)
        return (images[:, 0, 0, 0] > 0.3).long()


def lines(count=6, seed=0):
    """Images of class 0, unit directions that cross into class 1 within the length 2, and where exactly."""
    rng = torch.Generator().manual_seed(seed)
    images = 0.2 * torch.randn(count, 1, 2, 2, generator=rng, dtype=torch.float64)
    images[:, 0, 0, 0] = -0.5
    direction = torch.randn(count, 1, 2, 2, generator=rng, dtype=torch.float64)
    direction[:, 0, 0, 0] = 1.5
    direction /= direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return images, direction, 0.8 / direction[:, 0, 0, 0]


def test_the_bisection_is_the_loop_over_single_lines():
    teacher, (images, direction, exact) = Plane(), lines()
    start = Boundary(direction, torch.zeros(6, dtype=torch.float64), torch.full((6,), 4.0, dtype=torch.float64))
    found = bisect(teacher, images, torch.ones(6, dtype=torch.int64), start, 7)
    assert teacher.asked == 6 * 7
    for index in range(6):
        low, high = 0.0, 4.0
        for _ in range(7):
            middle = (low + high) / 2
            if images[index, 0, 0, 0] + middle * direction[index, 0, 0, 0] > 0.3:
                high = middle
            else:
                low = middle
        assert (float(found.low[index]), float(found.high[index])) == (low, high)
        assert low <= float(exact[index]) <= high and high - low == 4 / 2**7


def test_a_line_without_an_answer_stays_as_it_was():
    images, direction, _ = lines()
    start = Boundary(direction, torch.zeros(6, dtype=torch.float64), torch.full((6,), 4.0, dtype=torch.float64))

    def silent(asked):
        return torch.where(torch.arange(6) < 3, (asked[:, 0, 0, 0] > 0.3).long(), -1)

    found = bisect(silent, images, torch.ones(6, dtype=torch.int64), start, 3)
    assert (found.high[:3] - found.low[:3] == 0.5).all() and (found.low[3:] == 0).all() and (found.high[3:] == 4).all()


def test_turning_a_line_finds_a_nearer_point_of_the_boundary():
    teacher, (images, direction, exact) = Plane(), lines()
    classes, rng = torch.ones(6, dtype=torch.int64), torch.Generator().manual_seed(0)
    found = Boundary(direction, torch.zeros(6, dtype=torch.float64), torch.full((6,), 4.0, dtype=torch.float64))
    found = bisect(teacher, images, classes, found, 20)
    teacher.asked = 0
    for _ in range(12):
        found = turn(teacher, images, classes, found, directions=20, steps=10, rng=rng)
    assert teacher.asked == 12 * 6 * (20 + 1 + 10)
    assert (found.high <= exact + 1e-4).all(), "never farther than the line was"
    assert (found.high >= 0.8 - 1e-6).all(), "0.8 is the distance of the plane"
    assert (found.high - 0.8).mean() < 0.2 * (exact - 0.8).mean()


def test_the_nearest_image_of_each_class_is_found():
    images, pool = torch.randn(4, 1, 3, 3), torch.randn(9, 1, 3, 3)
    labels = torch.tensor([0, 2, 2, 0, 0, 2, 0, 2, 2])
    distances, numbers = nearest_of_class(images, pool, labels, 4)
    for row in range(4):
        for label in (0, 2):
            apart = {n: math.dist(images[row].flatten().tolist(), pool[n].flatten().tolist()) for n in range(9)}
            best = min((n for n in range(9) if labels[n] == label), key=apart.__getitem__)
            assert int(numbers[row, label]) == best
            assert float(distances[row, label]) == pytest.approx(apart[best], rel=1e-4)
    assert distances[:, [1, 3]].isinf().all()


def test_the_loss_is_the_divergence_from_the_distances_and_the_own_class():
    distances, student = [[0.0, 2.0, 4.0], [1.0, 0.0, 3.0]], [[1.0, 1.0, -2.0], [-0.5, 0.25, 0.0]]

    def softmax(scores):
        weights = [math.exp(score) for score in scores]
        return [weight / sum(weights) for weight in weights]

    expected, t = 0.0, 2.0
    for own, far, scores in zip([0, 1], distances, student, strict=True):
        p, q = softmax([-d / t for d in far]), softmax([y / t for y in scores])
        expected += t**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 2
        expected -= 0.7 * math.log(softmax(scores)[own]) / 2
    method = DB3KD(temperature=t, label_weight=0.7, **WORLD)
    rows = Rows(torch.zeros(2, 1, 8, 8), Response(-torch.tensor(distances), "logits", 3))
    assert float(method.losses(lambda images: torch.tensor(student), rows)["loss"]) == pytest.approx(expected, rel=1e-5)


def run(responses="hard", budget=600, count=60, **settings):
    teacher = ToyTeacher()
    box = BlackBox(teacher, responses, CLASSES, budget=budget, batch_size=128)
    options = {"recipe": Recipe(steps=4, batch_size=16), "progress": False, "validation": 0.0, **settings}
    result = distill(toy_student(), box, toy_images(count, seed=1), "db3kd", **options)
    return result, teacher


def test_every_probe_is_counted():
    result, teacher = run(searched=40, steps=5)
    assert result.ledger.by_stage == {"labels": 40, "boundaries": 40 * 2 * 5}
    assert teacher.count == 440
    assert DB3KD(steps=5, **WORLD).queries_an_image == 11


def test_a_soft_teacher_is_asked_the_same_for_its_arg_max():
    sent = [torch.cat(run(responses, searched=40)[1].asked) for responses in ("hard", "logits")]
    assert torch.equal(*sent)


def test_a_nearer_class_is_the_more_probable_one():
    teacher = BlackBox(ToyTeacher(), "hard", CLASSES)
    method = DB3KD(steps=8, searched=60, **WORLD)
    stages = method.stages(teacher, toy_images(60, seed=1), toy_student())
    for _ in range(2):
        stage = next(stages)
        stage.bank.fill(teacher, stage.draw, stage.size, stage=stage.name, label=stage.label)
    next(stages)
    scores, far = stage.bank.response.scores(), -stage.bank.response.values
    truth = BlackBox(ToyTeacher(), "logits", CLASSES).query(stage.bank.images)
    assert torch.equal(scores.argmax(dim=1), truth.labels)
    second = [values.topk(2, dim=1).indices[:, 1] for values in (scores, truth.values)]
    assert (second[0] == second[1]).float().mean() > 0.6, "a distance says which class comes second"
    assert float(far[far > 0].mean() * method._scale) == pytest.approx(8)


def test_too_small_a_budget_is_refused_with_the_number_needed():
    with pytest.raises(NeedsNotMet, match="DB3KD needs at least 540 queries, and the query budget is 500"):
        run(budget=500)
    result, _ = run(budget=500, searched=50)
    assert result.ledger.total == 450


class TestWithTurns(DistillerContract):
    """The searches of the minimal boundary distance resume, and lose no answer uncounted, as the plain ones do."""

    method = "db3kd"
    settings = {"searched": 12, "turns": 1, "directions": 5, "steps": 4}
    budget, steps = 350, 20
    test_beats_an_untrained_student_and_shuffled_answers = None

"""Adapting answers at test time: the objective falls, loops agree, nothing of the student changes."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.adaptation import adaptation, affinity_graph, lame_objective, propagate
from mekd_plugin.errors import InputError

KINDS = ("knn", "rbf", "linear")


def batch(count: int = 40, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of own answers and features, in ``classes`` loose clouds."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    features = nn.functional.one_hot(labels, 6) * 2.0 + torch.randn(count, 6, generator=rng)
    logits = features[:, :classes] + torch.randn(count, classes, generator=rng)
    return logits.double().log_softmax(1), features


class Student(nn.Module):
    """Images of one pixel each in two channels: its features are their values, and so are its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(2))
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def two_clouds(sizes: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    labels = torch.cat([torch.zeros(sizes[0]), torch.ones(sizes[1])]).long()
    points = torch.tensor([[3.0, 0.5], [0.5, 3.0]])[labels] + torch.randn(len(labels), 2, generator=rng)
    return points[:, :, None, None], labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0.5, 5.0, 50.0])
def test_every_step_makes_the_objective_smaller(kind, weight):
    log_own, features = batch()
    graph = affinity_graph(features, kind)
    values = [lame_objective(log_own.exp(), log_own, graph, weight=weight)]
    values += [
        lame_objective(propagate(log_own, graph, weight=weight, steps=steps), log_own, graph, weight=weight)
        for steps in range(1, 30)
    ]
    falls = torch.stack(values).diff()
    assert (falls <= 1e-9).all() and falls[0] < 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_at_a_fixed_point(kind):
    """z is proportional to q exp(weight W z), which is where the objective's gradient on the simplex is zero."""
    log_own, features = batch()
    graph = affinity_graph(features, kind)
    ended = propagate(log_own, graph, steps=5000)
    again = (log_own + 5.0 * graph @ ended).softmax(dim=1)
    assert torch.allclose(ended, again, atol=1e-4)
    assert torch.allclose(ended.sum(dim=1), torch.ones(len(ended)).double())


def test_two_images_that_are_each_others_neighbours_do_not_swap_for_ever():
    log_own = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double().log()
    graph = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    first, second = (propagate(log_own, graph, weight=20.0, steps=steps) for steps in (2000, 2001))
    assert torch.allclose(first, second, atol=1e-5) and first[0].argmax() == first[1].argmax() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_against_loops(kind):
    _, features = batch(12)
    k, count = 3, 12
    unit = [row / math.sqrt(float((row**2).sum())) for row in features.double()]
    squared = [[float(((a - b) ** 2).sum()) for b in unit] for a in unit]
    reach = [sorted(squared[i][j] for j in range(count) if j != i)[k - 1] for i in range(count)]
    width = sum(math.sqrt(value) for value in reach) / count
    expected = torch.zeros(count, count).double()
    for i in range(count):
        for j in range(count):
            if kind == "knn":
                expected[i, j] += 0.5 / k if i != j and squared[i][j] <= reach[i] else 0.0
                expected[j, i] += 0.5 / k if i != j and squared[i][j] <= reach[i] else 0.0
            elif kind == "rbf":
                expected[i, j] = math.exp(-squared[i][j] / (2 * width**2))
            else:
                expected[i, j] = float((unit[i] * unit[j]).sum())
    if kind != "knn":
        expected /= sum(abs(float(value)) for value in expected.flatten()) / count
    found = affinity_graph(features, kind, k=k)
    assert torch.allclose(found, expected, atol=1e-9)
    assert torch.equal(found, found.T) and float(found.abs().sum(dim=1).mean()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_objective_and_step_against_loops(kind):
    log_own, features = batch(9)
    graph, weight = affinity_graph(features, kind, k=2), 4.0
    count, classes = log_own.shape
    own, assigned = log_own.exp().tolist(), batch(9, seed=7)[0].exp().tolist()
    objective = 0.0
    for i in range(count):
        objective += sum(assigned[i][c] * math.log(assigned[i][c] / own[i][c]) for c in range(classes))
        for j in range(count):
            alike = sum(assigned[i][c] * assigned[j][c] for c in range(classes))
            objective -= weight / 2 * float(graph[i, j]) * alike
    assert float(lame_objective(torch.tensor(assigned).double(), log_own, graph, weight=weight)) == pytest.approx(
        objective
    )
    stepped = propagate(log_own, graph, weight=weight, steps=1)
    for i in range(count):
        damping = weight * sum(abs(float(graph[i, j])) for j in range(count)) if kind == "knn" else 0.0
        pull = [sum(float(graph[i, j]) * own[j][c] for j in range(count)) for c in range(classes)]
        row = [
            (own[i][c] * math.exp(weight * pull[c])) ** (1 / (1 + damping)) * own[i][c] ** (damping / (1 + damping))
            for c in range(classes)
        ]
        assert stepped[i].tolist() == pytest.approx([value / sum(row) for value in row])


@pytest.mark.parametrize("kind", KINDS)
def test_alike_features_get_alike_answers(kind):
    log_own, features = batch(30)
    features[20:] = features[3]  # more copies than neighbours
    log_own[20:] = log_own[3]
    adapted = propagate(log_own, affinity_graph(features, kind, k=4))
    assert torch.allclose(adapted[20:], adapted[3].expand(10, -1), atol=1e-9)


def test_the_order_of_the_images_does_not_matter():
    log_own, features = batch()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(3))
    straight = propagate(log_own, affinity_graph(features))
    assert torch.allclose(propagate(log_own[order], affinity_graph(features[order])), straight[order], atol=1e-9)


def test_without_weight_the_students_own_probabilities():
    student, (images, _) = Student(), two_clouds((30, 30))
    own = student.eval()(images).softmax(dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.allclose(mekd.adapt(student, images, weight=0), own, atol=1e-6)


def test_answers_that_their_neighbours_contradict_are_corrected():
    """Of eight features that tell two classes apart, the student's head looks at two."""
    rng = torch.Generator().manual_seed(2)
    labels = (torch.arange(120) % 3 == 0).long()
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[labels].repeat(1, 4)
    images = (means + 0.7 * torch.randn(120, 8, generator=rng))[:, :, None, None]
    student = nn.Sequential(nn.Flatten(), nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        student[1].weight.copy_(torch.eye(2, 8))
    own = float((student(images).argmax(dim=1) == labels).float().mean())
    adapted = mekd.adapt(student, images)
    assert own < 0.9 and float((adapted.argmax(dim=1) == labels).float().mean()) > own + 0.05
    assert adapted.dtype == torch.float32 and torch.allclose(adapted.sum(dim=1), torch.ones(120))


def test_the_student_and_the_random_numbers_stay_as_they_were():
    student, (images, _) = Student(), two_clouds((40, 40))
    student.train()
    student.body[1].eval()
    before, state = {name: value.clone() for name, value in student.state_dict().items()}, torch.get_rng_state()
    hooks = len(student.head._forward_pre_hooks)
    mekd.adapt(student, images)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and len(student.head._forward_pre_hooks) == hooks
    assert student.training and student.body[2].training and not student.body[1].training
    assert all(weight.grad is None for weight in student.parameters())


def test_it_is_off_where_a_class_has_few_images_and_says_so():
    student, (images, _) = Student(), two_clouds((8, 8))
    with pytest.warns(UserWarning, match="adaptation is off in 1 of 1 groups.*about 8 others of its class among 16"):
        assert torch.equal(mekd.adapt(student, images), adaptation(student, images).own)
    forced = adaptation(student, images, guard=False)
    assert forced.on and not torch.equal(forced.probabilities, forced.own) and str(forced) == "adapted"


def test_it_is_off_where_classes_would_be_swallowed():
    student = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        student[1].weight.copy_(torch.tensor([[0.0, 0.15], [0.0, 0.0]]))  # hardly sure, and of one class
    images, _ = two_clouds((60, 60))
    found = adaptation(student, images, affinity="rbf", weight=20.0)
    assert not found.on and "classes would be swallowed" in str(found)


def test_more_images_than_a_group_are_dealt_out_evenly():
    student, (images, _) = Student(), two_clouds((70, 60))
    found = adaptation(student, images, group=100)
    assert [(places.start, places.stop) for places, _ in found.groups] == [(0, 65), (65, 130)]
    alone = adaptation(student, images[:65], group=100)
    assert torch.allclose(found.probabilities[:65], alone.probabilities, atol=1e-6)


def test_fewer_images_than_neighbours_keep_their_own_answers():
    student, (images, _) = Student(), two_clouds((2, 1))
    found = adaptation(student, images, guard=False)
    assert torch.equal(found.probabilities, found.own) and "needs 5 others" in str(found)


def test_a_student_without_a_linear_layer_is_adapted_by_its_logits():
    images, _ = two_clouds((50, 50))
    found = adaptation(nn.Flatten(), images)
    log_own = images.flatten(1).double().log_softmax(1)
    assert torch.allclose(
        found.probabilities.double(), propagate(log_own, affinity_graph(images.flatten(1))), atol=1e-6
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"affinity": "cosine"}, "affinity='cosine': expected one of knn, rbf, linear"),
        ({"k": 0}, "k=0"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"group": 0}, "group=0"),
    ],
)
def test_settings_out_of_range(settings, words):
    images, _ = two_clouds((20, 20))
    with pytest.raises(InputError, match=words):
        mekd.adapt(Student(), images, **settings)


def test_inputs_that_cannot_be_adapted():
    with pytest.raises(InputError, match="no images"):
        mekd.adapt(Student(), torch.zeros(0, 2, 1, 1))
    with pytest.raises(InputError, match=r"images are torch.float64, .*hand in images.float\(\)"):
        mekd.adapt(nn.Sequential(nn.Flatten(), nn.Linear(2, 3)), torch.zeros(30, 2, 1, 1).double())
    with pytest.raises(InputError, match="expected finite numbers"):
        mekd.adapt(nn.Flatten(), torch.full((30, 2, 1, 1), torch.nan))
    with pytest.raises(InputError, match=r"expected finite numbers, \(30, C\)"):
        mekd.adapt(nn.Identity(), torch.zeros(30, 2, 1, 1))
    with pytest.raises(InputError, match="k=9"):
        affinity_graph(torch.zeros(9, 2), k=9)
    with pytest.raises(InputError, match=r"a graph of shape \(2, 2\)"):
        propagate(torch.zeros(3, 2), torch.zeros(2, 2))


def test_numbers_that_are_spelt_are_the_numbers():
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(affinity_graph(features, k="5"), affinity_graph(features, k=5))
    log_own, graph = features.double().log_softmax(dim=1), affinity_graph(features)
    spelt = propagate(log_own, graph, weight="2", steps="3")
    assert torch.equal(spelt, propagate(log_own, graph, weight=2, steps=3))

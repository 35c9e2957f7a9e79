"""QEDG's terms and its choice against loops over what they say."""

import math

import pytest
import torch
from mekd_plugin.baselines.qedg import QEDG, same_class_likeness, unsure_first, weighted_cross_entropy

from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, SHAPE, toy_student

WORLD = {"num_classes": CLASSES, "image_shape": SHAPE, "latent_dim": 16}


def test_likeness_is_the_sum_over_pairs_of_one_class():
    images, targets = torch.randn(5, 1, 2, 2), [0, 1, 0, 0, 1]
    expected = 0.0
    for i in range(5):
        for j in range(i + 1, 5):
            if targets[i] == targets[j]:
                a, b = images[i].flatten().tolist(), images[j].flatten().tolist()
                product = sum(x * y for x, y in zip(a, b, strict=True))
                expected += product / math.hypot(*a) / math.hypot(*b)
    assert float(same_class_likeness(images, torch.tensor(targets))) == pytest.approx(expected / 5, rel=1e-5)


def test_what_the_student_gets_wrong_weighs_more():
    logits, labels = [[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]], [0, 1]
    expected = 0.0
    for row, label in zip(logits, labels, strict=True):
        entropy = -math.log(math.exp(row[label]) / sum(math.exp(score) for score in row))
        expected += entropy * (1.0 if row.index(max(row)) == label else 2.0)
    loss = weighted_cross_entropy(torch.tensor(logits), torch.tensor(labels), 2.0)
    assert float(loss) == pytest.approx(expected / 2, rel=1e-5)


def test_the_generators_loss_is_the_weighted_sum():
    method = QEDG(sureness_weight=10.0, likeness_weight=0.1, **WORLD)
    images, logits, targets = 2 * torch.rand(4, *SHAPE) - 1, torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = 0.1 * float(same_class_likeness((images + 1) / 2, targets))
    for row, target in zip(logits.softmax(dim=1).tolist(), targets.tolist(), strict=True):
        deviation = math.sqrt(sum((p - sum(row) / 3) ** 2 for p in row) / 2)
        expected += (-math.log(row[target]) + 10 * deviation) / 4
    assert float(method.generator_losses(images, logits, targets)["loss"]) == pytest.approx(expected, rel=1e-4)


def test_unsure_images_come_first_then_the_least_sure():
    sure = [0.9, 0.6, 0.95, 0.7, 0.8]
    probabilities = torch.tensor([[p, 1 - p, 0.0] for p in sure])
    unsure = [i for i, p in enumerate(sure) if p <= 0.7]
    others = sorted((i for i, p in enumerate(sure) if p > 0.7), key=lambda i: sure[i])
    for count in range(6):
        assert unsure_first(probabilities, count, 0.7).tolist() == (unsure + others)[:count]


def test_what_is_asked_hangs_on_the_student():
    torch.manual_seed(0)
    method = QEDG(candidates=2.0, threshold=0.4, output_norm=True, **WORLD)
    method.generator = method.new_generator()
    latents = method.latents(1, 20)
    assert len(latents) == 40
    asked = [method.choose(latents, 20, toy_student(seed), (-1.0, 1.0)) for seed in (0, 0, 1)]
    assert asked[0].shape == (20, *SHAPE)
    assert torch.equal(asked[0], asked[1]) and not torch.equal(asked[0], asked[2])


def test_of_scores_it_takes_the_arg_max():
    method, logits = QEDG(**WORLD), torch.randn(2, 3)
    soft, hard = Response(torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.1, 0.2]]), "logits", 3), torch.tensor([0, 2])
    losses = [
        method.losses(lambda images: logits, Rows(torch.zeros(2, *SHAPE), response))["loss"]
        for response in (soft, Response(hard, "hard", 3))
    ]
    assert torch.equal(*losses)

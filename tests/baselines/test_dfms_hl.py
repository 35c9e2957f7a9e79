"""DFMS-HL: the students' loss, the entropy's part in the generator's, and whose images the GAN learns."""

import pytest
import torch
from mekd_plugin.baselines.dfms_hl import DFMSHL

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Asking, Training
from mekd_plugin.functional import cross_entropy_labels, kd_divergence
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.testing import CLASSES, SHAPE, ToyTeacher, toy_images, toy_student

WORLD = {"num_classes": CLASSES, "image_shape": SHAPE, "latent_dim": 16}


def generators_losses(weight):
    """What the generator minimises in the first step of each of two rounds, and the entropies that were logged."""
    torch.manual_seed(0)
    method = DFMSHL(rounds=2, entropy_weight=weight, **WORLD)
    teacher = BlackBox(ToyTeacher(), "hard", CLASSES, budget=20)
    found = []
    for stage in method.stages(teacher, toy_images(30, seed=1), toy_student()):
        if isinstance(stage, Asking):
            stage.bank.fill(teacher, stage.draw, stage.size, stage=stage.name)
        elif isinstance(stage, Training) and not stage.trains_student:
            torch.manual_seed(1)
            told = stage.step(stage.rows.batch(0, 8, Shard()), lambda losses: None, None)
            found.append((float(told["loss"]), float(told["fooling"]), float(told.get("entropy", 0.0))))
    return found


def test_the_entropy_of_the_students_mean_class_joins_in_the_second_round():
    (first, fooling, _), (second, fooling_then, entropy) = generators_losses(2.0)
    assert first == pytest.approx(fooling) and entropy > 0
    assert second == pytest.approx(fooling_then - 2 * entropy, rel=1e-5)


def test_the_student_learns_whatever_the_teacher_tells():
    method, logits, scores = DFMSHL(temperature=3.0, smoothing=0.1, **WORLD), torch.randn(2, 3), torch.randn(2, 3)
    hard, soft = Response(torch.tensor([0, 2]), "hard", 3), Response(scores, "logits", 3)
    losses = [
        method.losses(lambda images: logits, Rows(torch.zeros(2, *SHAPE), response))["loss"]
        for response in (hard, soft)
    ]
    assert torch.equal(losses[0], cross_entropy_labels(logits, torch.tensor([0, 2]), 0.1))
    assert torch.allclose(losses[1], kd_divergence(logits, scores, 3.0))


def test_more_classes_than_coordinates_are_drawn_for_all_the_same():
    method = DFMSHL(num_classes=100, image_shape=(1, 8, 8), seed=0, latent_dim=64)
    method.generator = method.new_generator()
    made = method.choose(method.latents(1, 20), 20, toy_student(0), (-1.0, 1.0))
    assert made.shape == (20, 1, 8, 8)


def test_its_domain_decides_what_leaves_the_edge():
    edge, other = DFMSHL(**WORLD).needs, DFMSHL(domain="other", **WORLD).needs
    assert (edge.pool, edge.leaves_edge) == ("edge", "synthetic images")
    assert (other.pool, other.leaves_edge) == ("other domain", "nothing of the edge")

"""FS-BBT: the autoencoder's loss against naive loops, what its mixtures are, and what its second round follows from."""

import math

import pytest
import torch
from mekd_plugin.baselines.fs_bbt import CVAE, FSBBT, MixedRows, cvae_loss

from mekd_plugin import distill
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.functional import cross_entropy_labels, kd_divergence
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.testing import CLASSES, DistillerContract, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

WORLD = {"num_classes": CLASSES, "image_shape": (1, 8, 8)}


def test_the_autoencoders_loss_is_its_equation():
    images, decoded, mean, log_variance = torch.rand(4, 6), torch.randn(4, 6), torch.randn(4, 2), torch.randn(4, 2)
    expected = 0.0
    for x, logits, mu, log in zip(*(part.tolist() for part in (images, decoded, mean, log_variance)), strict=True):
        for pixel, logit in zip(x, logits, strict=True):
            drawn = 1 / (1 + math.exp(-logit))
            expected -= pixel * math.log(drawn) + (1 - pixel) * math.log(1 - drawn)
        for m, v in zip(mu, log, strict=True):
            expected -= 0.5 * (1 + v - m * m - math.exp(v))
    assert cvae_loss(images, decoded, mean, log_variance).item() == pytest.approx(expected / 4, rel=1e-5)


def test_the_autoencoder_draws_the_class_that_it_is_told():
    torch.manual_seed(0)
    labels = torch.arange(120) % CLASSES
    shown = torch.zeros(120, 1, 8, 8)  # the bar of each class in one place, so that there is little to learn
    shown[:, 0, 1:6, 1:6] = 0.9 * ToyTeacher().kernels.detach()[labels, 0]
    model = CVAE(CLASSES, (1, 8, 8), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        cvae_loss(shown.flatten(1), *model(shown, labels)).backward()
        optimizer.step()
    wanted = torch.arange(60) % CLASSES
    told = ToyTeacher()(2 * model.decode(torch.randn(60, 2), wanted) - 1).argmax(dim=1)
    assert (told == wanted).float().mean() > 0.9


def test_the_losses_are_those_of_kd():
    made = FSBBT(temperature=3.0, smoothing=0.1, **WORLD)
    logits, scores, labels = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0, 2])

    def loss(response):
        return made.losses(lambda images: logits, Rows(torch.zeros(2, 1, 8, 8), response))["loss"]

    assert torch.allclose(loss(Response(scores, "logits", 3)), kd_divergence(logits, scores, 3.0))
    assert torch.equal(loss(Response(labels, "hard", 3)), cross_entropy_labels(logits, labels, 0.1))


class InOrder:
    """A source of the same rows, always in the same order."""

    def __init__(self, rows):
        self.rows = rows

    def batch(self, step, size, shard):
        return self.rows[:size]


def test_a_host_that_hands_in_logits_trains_it_on_what_it_was_shown():
    """A student that answers to each mixture as the mixed answers say has nothing to learn, whoever ran it."""
    made = FSBBT(temperature=1.0, smoothing=0.0, **WORLD)
    answers = Response(torch.tensor([0, 1, 2, 0]), "hard", 3)
    rows = MixedRows(InOrder(Rows(torch.rand(4, 1, 8, 8), answers)), seed=0).batch(0, 4, Shard())
    ratio = rows.extra["ratio"][0]
    told = ratio * torch.eye(3)[answers.values] + (1 - ratio) * torch.eye(3)[rows.extra["other"]]
    asked, logits = [], told.clamp_min(1e-6).log().requires_grad_()
    (gradient,) = torch.autograd.grad(made.losses(lambda images: asked.append(images) or logits, rows)["loss"], logits)
    assert gradient.abs().max() < 1e-5 and len(asked) == 1 and asked[0] is rows.images


@pytest.mark.parametrize("kind", ["logits", "hard"])
def test_a_batch_is_mixed_with_its_answers(kind):
    """Against a loop over the images, whose soft answers are mixed as probabilities: the same up to a constant."""
    made, student = FSBBT(temperature=2.0, smoothing=0.0, **WORLD), toy_student(0)
    images, scores = torch.rand(4, 1, 8, 8), torch.randn(4, 3)
    values = scores if kind == "logits" else scores.argmax(dim=1)
    source = MixedRows(InOrder(Rows(images, Response(values, kind, 3))), seed=5)
    rows = source.batch(2, 4, Shard())
    again, later = source.batch(2, 4, Shard()), source.batch(3, 4, Shard())
    assert torch.equal(rows.images, again.images) and not torch.equal(rows.images, later.images)
    loss = made.losses(student, rows)["loss"].detach()
    ratio = float(rows.extra["ratio"][0])
    others = ((rows.images - ratio * images) / (1 - ratio)).flatten(1)
    order = torch.cdist(others, images.flatten(1)).argmin(dim=1).tolist()
    assert sorted(order) == [0, 1, 2, 3]
    mixed = torch.stack([ratio * images[i] + (1 - ratio) * images[j] for i, j in enumerate(order)])
    heat, expected = (2.0 if kind == "logits" else 1.0), 0.0
    told = (scores / heat).softmax(dim=1) if kind == "logits" else torch.eye(3)[values]
    for i, (j, row) in enumerate(zip(order, student(mixed).tolist(), strict=True)):
        total = sum(math.exp(score / heat) for score in row)
        for score, one, other in zip(row, told[i].tolist(), told[j].tolist(), strict=True):
            log = math.log(math.exp(score / heat) / total)
            entropies = sum(
                part * p * math.log(p) for part, p in ((ratio, one), (1 - ratio, other)) if p > 0 and kind == "logits"
            )
            expected += heat**2 * (entropies - (ratio * one + (1 - ratio) * other) * log) / 4
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def asked(*, student=0, budget=200, images=None, responses="logits", **settings):
    """All that was asked, in order, ``(budget, 64)``."""
    teacher = ToyTeacher()
    images = toy_images(30, seed=1) if images is None else images
    distill(
        toy_student(student), BlackBox(teacher, responses, CLASSES, budget=budget), images, "fs_bbt",
        recipe=Recipe(steps=20, batch_size=16), progress=False, validation=0.0,
        **{"decoded_share": 0.25, "cvae_steps": 20, **settings},
    )  # fmt: skip
    assert teacher.count == budget
    return torch.cat(teacher.asked).flatten(1)


@pytest.mark.parametrize("beta", [0.2, 1.0, 3.0])
def test_mixtures_are_of_two_images_within_the_margins(beta):
    images = toy_images(30, seed=1).flatten(1)
    sent = asked(beta=beta)[:150]
    share = torch.linalg.lstsq(images.T, sent.T).solution.T
    two = share.topk(2, dim=1).values
    assert torch.allclose(two.sum(dim=1), torch.ones(150), atol=1e-3)
    assert two.amin() > 0.049 and two.amax() < 0.951
    drawn = torch.distributions.Beta(beta, beta).sample((20_000,))
    drawn = drawn[(drawn > 0.05) & (drawn < 0.95)]
    assert two[:, 0].mean() == pytest.approx(float(torch.maximum(drawn, 1 - drawn).mean()), abs=0.05)


def test_decoded_images_follow_from_the_student_where_the_images_stay_at_home():
    first, again, other = asked(), asked(), asked(student=1)
    assert torch.equal(first, again)
    assert torch.equal(first[:150], other[:150]) and not torch.equal(first[150:], other[150:])


def test_decoded_images_follow_from_the_answers_where_the_images_are_asked_about():
    settings = {"originals": True, "student_share": 0.0}
    first, other = asked(**settings), asked(student=1, **settings)
    assert torch.equal(first, other), "no student takes part in what is asked"
    images = toy_images(30, seed=1).flatten(1)
    assert (images.unsqueeze(1) == first[:30]).all(dim=2).any(dim=1).all()


class TestAsInThePaper(DistillerContract):
    """Its own settings: the images themselves are asked about, and the student trains once."""

    method = "fs_bbt"
    settings = {"originals": True, "student_share": 0.0, "cvae_steps": 20}
    budget, steps = 300, 40
    test_beats_an_untrained_student_and_shuffled_answers = None


def test_needs_follow_the_settings():
    assert (FSBBT(**WORLD).needs.leaves_edge, FSBBT(**WORLD).needs.queries) == ("mixtures", "rounds")
    paper = FSBBT(**FSBBT.presets["paper"], **WORLD).needs
    assert (paper.leaves_edge, paper.queries) == ("real images", "once")


@pytest.mark.parametrize(
    ("settings", "budget", "error", "words"),
    [
        ({"student_share": 0.0}, 90, InputError, "student_share=0 leaves nobody"),
        ({"margin": 0.5}, 90, InputError, "margin=0.5"),
        ({"decoded_share": 0.0}, 90, InputError, "decoded_share=0"),
        ({"decoded_share": 0.1}, 15, NeedsNotMet, "FSBBT needs at least 16 queries"),
    ],
)
def test_what_cannot_work_is_refused_unasked(settings, budget, error, words):
    teacher = ToyTeacher()
    box = BlackBox(teacher, "logits", CLASSES, budget=budget)
    with pytest.raises(error, match=words):
        distill(toy_student(), box, toy_images(20, seed=1), "fs_bbt", recipe=Recipe(steps=2), **settings)
    assert teacher.count == 0

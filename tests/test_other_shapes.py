"""Methods of other shapes than ours, as a third party would write them: in rounds, at every step, without any data."""

import warnings
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.optim import Adam

import mekd_plugin as mekd
from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.distiller import Asking, Distiller, Needs, Player, Training
from mekd_plugin.errors import InputError, NeedsNotMet, QueryBudgetExceeded
from mekd_plugin.functional import kd_divergence, logit_mse
from mekd_plugin.prediction import predict
from mekd_plugin.rows import NoiseRows, Rows
from mekd_plugin.testing import CLASSES, SHAPE, DistillerContract, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.transfer import number_of_queries
from mekd_plugin.views import mixup


class ActiveMixup(Distiller):
    """Asks in rounds about the mixtures of which the student of the last round was least sure (Wang et al. 2020)."""

    needs = Needs(responses="soft", leaves_edge="mixtures", queries="rounds")

    def __init__(self, *, rounds=3, candidates=4, queries=None, **world):
        super().__init__(**world)
        self.rounds, self.candidates, self.queries = rounds, candidates, queries

    def stages(self, teacher, images, student):
        bank, begin, chosen = Bank("mixtures"), 0, images[:0]
        total = number_of_queries(teacher, "mixtures", self.queries, otherwise=600)
        for index in range(self.rounds):
            end = round(total * (index + 1) / self.rounds)
            # Of all rounds, since a bank that lost answers begins a round with rows of the one before.
            chosen = torch.cat([chosen, self.choose(images, student, end - begin, index)])
            draw = lambda start, stop, chosen=chosen: Rows(chosen[start:stop])  # noqa: E731
            yield Asking("mixtures", bank, draw, end, grows=index + 1 < self.rounds)
            yield self.align(f"student_{index}", bank.order(self.seed), student, fraction=1 / self.rounds)
            begin = end

    def choose(self, images, student, count, index):
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        one = torch.randint(0, len(images), (self.candidates * count,), generator=rng)
        other = (one + torch.randint(1, len(images), one.shape, generator=rng)) % len(images)
        mixed = mixup(images[one], images[other], 0.3 + 0.4 * torch.rand(one.shape, generator=rng))
        sure = predict(student, mixed).softmax(dim=1).amax(dim=1)
        return mixed[sure.argsort()[:count]]

    def losses(self, student, rows):
        return {"loss": kd_divergence(student(rows.images), rows.answers().scores(), 4.0)}


class Sparks(nn.Module):
    """Noise ``(N, 16)`` -> images, most pixels of which are dark."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 64)

    def forward(self, noise):
        return torch.tanh(3 * (self.linear(noise) - 0.5)).unflatten(1, SHAPE)


class ForwardDifferences(Distiller):
    """Needs no image: a generator learns where student and teacher differ, by differences through the teacher."""

    needs = Needs(responses="soft", leaves_edge="nothing of the edge", pool="none", queries="every step", in_step=True)

    def __init__(self, *, updates=2, reach=1e-2, **world):
        super().__init__(**world)
        self.updates, self.reach = updates, reach
        self.generator = Sparks()

    def stages(self, teacher, images, student):
        assert images.shape == (0, *SHAPE)

        def step(rows, update, query):
            made = self.generator(rows.images)
            asked = made.detach()
            answers = query(asked).scores()
            direction = torch.randn_like(asked).sign()
            with torch.no_grad():
                here = (student(asked) - answers).abs().mean(dim=1)
                moved = (asked + self.reach * direction).clamp(-1, 1)
                there = (student(moved) - query(moved).scores()).abs().mean(dim=1)
            slope = ((there - here) / self.reach)[:, None, None, None] * direction
            update({"generator": -(made * slope).mean()})
            for _ in range(self.updates):
                loss = logit_mse(student(asked), answers)
                update({"student": loss})
            return {"loss": loss.detach()}

        players = {"generator": Player(self.generator, lambda weights: Adam(weights, lr=1e-3))}
        yield Training("student", NoiseRows(16, seed=self.seed), step, players, trains_student=True)

    def losses(self, student, rows):
        return {"loss": logit_mse(student(rows.images), rows.answers().scores())}


class Pilfered(Distiller):
    """Asks about images of another domain: nothing of the edge's is sent."""

    needs = Needs(responses="either", leaves_edge="nothing of the edge", pool="other domain")

    def stages(self, teacher, images, student):
        bank = Bank("transfer_set")
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        noise = 0.2 * torch.randn(10, *images.shape, generator=torch.Generator().manual_seed(self.seed))
        pool = (images[order].cpu() + noise).clamp(-1, 1).flatten(0, 1)
        yield Asking("transfer_set", bank, lambda start, stop: Rows(pool[start:stop]), min(len(pool), 600))
        yield self.align("student", bank.order(self.seed), student)

    def losses(self, student, rows):
        return {"loss": logit_mse(student(rows.images), rows.answers().scores())}


class Through(Distiller):
    """A white-box reference: images are moved by the teacher's own gradient."""

    needs = Needs(
        responses="soft",
        leaves_edge="nothing of the edge",
        pool="none",
        queries="every step",
        in_step=True,
        gradients=True,
    )

    def stages(self, teacher, images, student):
        def step(rows, update, query):
            seed = rows.images.requires_grad_()
            scores = teacher.differentiate(seed, stage="student")
            (slope,) = torch.autograd.grad(scores.amax(dim=1).sum(), seed)
            found = (seed + slope.sign()).detach().clamp(-1, 1)
            loss = logit_mse(student(found), query(found).scores())
            update({"student": loss})
            return {"loss": loss.detach()}

        yield Training("student", NoiseRows(*SHAPE, seed=self.seed), step, trains_student=True)

    def losses(self, student, rows):
        return {"loss": logit_mse(student(rows.images), rows.answers().scores())}


class TestActiveMixup(DistillerContract):
    distiller = ActiveMixup


class TestForwardDifferences(DistillerContract):
    distiller = ForwardDifferences
    budget: ClassVar[int] = 10_000  # 9,600 and what a lost batch costs


class TestPilfered(DistillerContract):
    distiller = Pilfered


def problem(method, **options):
    settings = {"recipe": Recipe(steps=20, batch_size=16), "progress": False, "device": "cpu", "validation": 0.0}
    boundary = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=options.pop("budget", 600))
    return mekd.distill(toy_student(), boundary, toy_images(60, seed=1), method, **{**settings, **options})


@pytest.mark.parametrize(("rounds", "steps"), [(3, 20), (7, 20), (3, 100), (6, 7)])
def test_the_steps_of_rounds_add_up_to_the_recipes(rounds, steps):
    result = problem(ActiveMixup, rounds=rounds, recipe=Recipe(steps=steps, batch_size=16))
    assert result.steps == steps


def test_a_later_rounds_questions_hang_on_the_student():
    sent = []
    for first in (0, 1):
        toy = ToyTeacher()
        boundary = mekd.BlackBox(toy, "logits", CLASSES, budget=300)
        settings = {"recipe": Recipe(steps=20, batch_size=16), "progress": False, "validation": 0.0}
        mekd.distill(
            toy_student(seed=first),
            boundary,
            toy_images(60, seed=1),
            ActiveMixup(num_classes=CLASSES, image_shape=SHAPE),
            **settings,
        )
        sent.append(torch.cat(toy.asked)[100:200])
    assert not torch.equal(*sent)


def test_a_stopped_round_goes_on_to_the_same_student(tmp_path):
    undisturbed = problem(ActiveMixup, directory=tmp_path / "whole")
    for stop in (5, 12):

        def interrupt(student):
            raise InterruptedError

        with pytest.raises(InterruptedError):
            problem(
                ActiveMixup,
                directory=tmp_path / "run",
                resume=True,
                evaluate=interrupt,
                evaluate_steps=[stop],
                checkpoint_steps=4,
            )
    resumed = problem(ActiveMixup, directory=tmp_path / "run", resume=True)
    for name, value in resumed.student.state_dict().items():
        assert torch.equal(value, undisturbed.student.state_dict()[name]), name
    assert resumed.steps == 20 and resumed.ledger.as_record() == undisturbed.ledger.as_record()


def test_a_plan_counts_every_fill_and_refuses_what_the_budget_does_not_reach():
    settings = {"recipe": Recipe(steps=20, batch_size=16), "device": "cpu"}
    teacher = ToyTeacher()
    boundary = mekd.BlackBox(teacher, "logits", CLASSES, budget=600)
    images = toy_images(60, seed=1)
    assert mekd.plan(toy_student(), boundary, images, ActiveMixup, **settings).queries == {"mixtures": 600}
    with pytest.raises(QueryBudgetExceeded, match="would pass the query budget of 600"):
        mekd.plan(toy_student(), boundary, None, ForwardDifferences, image_shape=SHAPE, **settings)
    assert teacher.count == 0


def test_several_updates_in_a_step_advance_the_schedule_once():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = mekd.distill(
            toy_student(),
            mekd.BlackBox(ToyTeacher(), "logits", CLASSES),
            method=ForwardDifferences,
            updates=5,
            image_shape=SHAPE,
            recipe=Recipe(steps=12, batch_size=8),
            progress=False,
        )
    assert result.steps == 12 and result.ledger.by_stage == {"student": 12 * 16}


def test_the_students_shape_serves_where_there_are_no_images():
    student = toy_student()
    settings = {"method": ForwardDifferences, "recipe": Recipe(steps=2, batch_size=8), "progress": False}
    boundary = mekd.BlackBox(ToyTeacher(), "logits", CLASSES)
    with pytest.raises(InputError, match=r"say image_shape=\(channels, height, width\); the student does not have it"):
        mekd.distill(student, boundary, **settings)
    student.image_shape = SHAPE
    assert mekd.distill(student, boundary, **settings).steps == 2


def test_methods_that_need_images_say_which():
    settings = {"image_shape": SHAPE, "recipe": Recipe(steps=2, batch_size=8), "progress": False}
    with pytest.raises(InputError, match="KD learns from the edge's unlabelled images, and images=None"):
        mekd.distill(toy_student(), mekd.BlackBox(ToyTeacher(), "logits", CLASSES), method="kd", **settings)
    with pytest.raises(InputError, match="Pilfered asks about images of another domain: hand them in, pool="):
        mekd.distill(toy_student(), mekd.BlackBox(ToyTeacher(), "logits", CLASSES), method=Pilfered, **settings)


@pytest.mark.parametrize("method", [ActiveMixup, ForwardDifferences])
def test_a_host_refuses_what_its_loop_cannot_carry(method):
    toy = ToyTeacher()
    with pytest.raises(NeedsNotMet, match="use mekd_plugin.distill"):
        mekd.host(toy_student(), mekd.BlackBox(toy, "logits", CLASSES), toy_images(60, seed=1), method, progress=False)
    assert toy.count == 0


def test_a_step_of_its_own_that_was_not_declared_is_refused_too():
    class Undeclared(ForwardDifferences):
        needs = Needs(responses="soft", leaves_edge="nothing of the edge", pool="none", queries="every step")

    boundary = mekd.BlackBox(ToyTeacher(), "logits", CLASSES)
    with pytest.raises(
        NeedsNotMet, match=r"Undeclared takes a step of its own in stage 'student'.*Needs\(in_step=True\)"
    ):
        mekd.host(toy_student(), boundary, method=Undeclared, image_shape=SHAPE, progress=False)


def test_a_white_box_is_said_by_name_and_counted():
    settings = {"image_shape": SHAPE, "recipe": Recipe(steps=3, batch_size=8), "progress": False, "method": Through}
    with pytest.raises(NeedsNotMet, match="Through differentiates through the teacher, .* --white-box"):
        mekd.distill(toy_student(), mekd.BlackBox(ToyTeacher(), "logits", CLASSES), **settings)
    result = mekd.distill(toy_student(), WhiteBox(ToyTeacher(), "logits", CLASSES, budget=48), **settings)
    assert result.ledger.total == 48
    with pytest.raises(QueryBudgetExceeded):
        mekd.distill(toy_student(), WhiteBox(ToyTeacher(), "logits", CLASSES, budget=40), **settings)
    with pytest.raises(InputError, match="a WhiteBox of a function: expected an nn.Module"):
        WhiteBox(lambda images: images, "logits", CLASSES)
    with pytest.raises(InputError, match="has no gradient"):
        WhiteBox(ToyTeacher(), "hard", CLASSES)

"""Knockoff Nets: its rewards against naive loops, and that its later questions follow from earlier answers."""

import pytest
import torch
from mekd_plugin.baselines.knockoff import Knockoff, diversity

from mekd_plugin import distill
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.functional import cross_entropy_labels, kd_divergence
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, DistillerContract, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

WORLD = {"num_classes": CLASSES, "image_shape": (1, 8, 8)}


def test_diversity_is_how_far_an_answer_rises_above_those_before():
    answers = torch.rand(7, 4).softmax(dim=1)
    expected, seen = [0.0], [answers[0].tolist()]
    for row in answers[1:].tolist():
        mean = [sum(column) / len(seen) for column in zip(*seen, strict=True)]
        expected.append(sum(max(0.0, y - m) for y, m in zip(row, mean, strict=True)))
        seen.append(row)
    assert diversity(answers).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_losses_are_those_of_kd():
    made = Knockoff(temperature=3.0, smoothing=0.1, **WORLD)
    logits, scores, labels = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0, 2])

    def loss(response):
        return made.losses(lambda images: logits, Rows(torch.zeros(2, 1, 8, 8), response))["loss"]

    assert torch.allclose(loss(Response(scores, "logits", 3)), kd_divergence(logits, scores, 3.0))
    assert torch.equal(loss(Response(labels, "hard", 3)), cross_entropy_labels(logits, labels, 0.1))


class OtherTeacher(ToyTeacher):
    """Another one, with other answers to the same images."""

    def forward(self, images):
        return super().forward(images).roll(1, dims=1) * images.mean(dim=(1, 2, 3)).unsqueeze(1)


def asked(teacher, *, student=0, budget=200, images=None, **settings):
    """All that was asked of ``teacher``, in order, ``(budget, 64)``."""
    box = BlackBox(teacher, settings.pop("responses", "logits"), CLASSES, budget=budget)
    images = toy_images(60, seed=1) if images is None else images
    distill(
        toy_student(student), box, images, "knockoff", recipe=Recipe(steps=20, batch_size=16), progress=False,
        validation=0.0, rounds=2, **settings,
    )  # fmt: skip
    assert teacher.count == budget
    return torch.cat(teacher.asked).flatten(1)


@pytest.mark.parametrize("rewards", ["certainty", "diversity", "loss"])
def test_the_second_draw_of_the_bandit_depends_on_the_first_answers(rewards):
    first, again = (asked(ToyTeacher(), policy="adaptive", rewards=rewards) for _ in range(2))
    other = asked(OtherTeacher(), policy="adaptive", rewards=rewards)
    assert torch.equal(first, again)
    assert torch.equal(first[:100], other[:100]) and not torch.equal(first[100:], other[100:])


@pytest.mark.parametrize("policy", ["k_center", "entropy"])
def test_the_second_choice_depends_on_the_first_student(policy):
    first, other = (asked(ToyTeacher(), student=seed, policy=policy) for seed in (0, 1))
    assert torch.equal(first[:100], other[:100])
    in_common = (torch.cdist(first[100:], other[100:]).amin(dim=1) < 1e-4).float().mean()
    assert in_common < 0.9, "another student singles out other images"


@pytest.mark.parametrize("policy", ["adaptive", "k_center", "entropy"])
def test_no_image_is_asked_about_twice(policy):
    sent = asked(ToyTeacher(), policy=policy, candidates=1.5)
    assert len(sent.unique(dim=0)) == len(sent)


def test_what_earns_a_reward_is_asked_about_more_often():
    """The teacher is sure of bars, and sees every bar in white: half of the pool are bars, most of the second draw."""
    pool = torch.cat([toy_images(300, seed=1), 1 - 0.05 * torch.rand(300, 1, 8, 8)])
    settings = {"policy": "adaptive", "rewards": "certainty", "actions": 2, "candidates": 3}
    sent = asked(ToyTeacher(), images=pool, **settings)
    bars = sent.mean(dim=1) < 0
    assert bars[:100].float().mean() < 0.65 < bars[100:].float().mean()


class TestInRounds(DistillerContract):
    """A policy that looks at its student asks in rounds, and keeps the contract there."""

    method = "knockoff"
    budget, steps = 300, 60

    @pytest.fixture(autouse=True, params=["k_center"])
    def choose(self, request):
        self.settings = {"policy": request.param, "rounds": 3}


class TestTheBandit(DistillerContract):
    """One that looks at answers alone, of another domain, does so before the student trains."""

    method = "knockoff"
    settings = {"policy": "adaptive", "rewards": ["certainty", "diversity"], "rounds": 3, "domain": "other"}
    budget, steps = 300, 60
    test_beats_an_untrained_student_and_shuffled_answers = None


def test_the_curve_and_the_copies_reach_the_end_of_the_last_round(tmp_path):
    box = BlackBox(ToyTeacher(), "logits", CLASSES, budget=100)
    result = distill(
        toy_student(), box, toy_images(60, seed=1), "knockoff", recipe=Recipe(steps=20), progress=False, rounds=2,
        policy="entropy", student_share=0.5, directory=tmp_path / "run", snapshots=3,
        evaluate=lambda student: {"accuracy": 0.5}, evaluate_steps=range(10, 100, 10),
    )  # fmt: skip
    assert [entry["step"] for entry in result.history if entry["stage"] == "evaluation"] == [10, 20, 30]
    last = max((tmp_path / "run" / "snapshots").iterdir())
    assert last.name == "step-000030.safetensors"
    assert last.read_bytes() == (tmp_path / "run" / "student.safetensors").read_bytes()


def test_the_last_round_takes_the_recipe_whole():
    box = BlackBox(ToyTeacher(), "logits", CLASSES, budget=101)
    result = distill(
        toy_student(), box, toy_images(60, seed=1), "knockoff", recipe=Recipe(steps=37), progress=False, rounds=4,
        policy="entropy", student_share=1.0,
    )  # fmt: skip
    assert result.steps == 2 * 37
    assert {entry["stage"] for entry in result.history} >= {"student_1", "student_2", "student_3", "student"}


@pytest.mark.parametrize(
    ("settings", "budget", "error", "words"),
    [
        ({"policy": "greedy"}, 90, InputError, "policy='greedy': expected one of random, adaptive, k_center, entropy"),
        ({"rewards": ["loss", "loss"]}, 90, InputError, "expected one or several of certainty, diversity, loss, each"),
        ({"rewards": []}, 90, InputError, "expected one or several of"),
        ({"candidates": 0.5}, 90, InputError, "candidates=0.5"),
        ({"policy": "entropy", "rounds": 8}, 15, NeedsNotMet, "Knockoff needs at least 16 queries"),
        ({"policy": "entropy", "rounds": 8, "queries": 9}, 90, InputError, "9 queries in 8 rounds"),
    ],
)
def test_what_cannot_work_is_refused_unasked(settings, budget, error, words):
    teacher = ToyTeacher()
    box = BlackBox(teacher, "logits", CLASSES, budget=budget)
    with pytest.raises(error, match=words):
        distill(toy_student(), box, toy_images(20, seed=1), "knockoff", recipe=Recipe(steps=2), **settings)
    assert teacher.count == 0


def test_certainty_alone_is_no_reward_for_hard_responses():
    box = BlackBox(ToyTeacher(), "hard", CLASSES, budget=50)
    with pytest.raises(NeedsNotMet, match="always certain"):
        Knockoff(policy="adaptive", rewards="certainty", **WORLD).check(box)
    Knockoff(policy="adaptive", rewards="diversity", **WORLD).check(box)


def test_needs_follow_the_settings():
    assert Knockoff(**WORLD).needs.leaves_edge == "real images"
    elsewhere = Knockoff(domain="other", policy="entropy", **WORLD).needs
    assert (elsewhere.pool, elsewhere.leaves_edge, elsewhere.queries) == (
        "other domain",
        "nothing of the edge",
        "rounds",
    )
    assert Knockoff(policy="adaptive", rewards=["diversity"], **WORLD).needs.queries == "once"

import pytest
import torch
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError, UnknownName
from mekd_plugin.mekd.surrogate import (
    Surrogate,
    consistency_for,
    rows_at_home,
    softened,
    surrogate_network,
    teach_surrogate,
)
from mekd_plugin.networks.lenet import LeNet
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student


def filled(count=200):
    images, bank = toy_images(count, seed=3), Bank()
    bank.fill(BlackBox(ToyTeacher(), "logits", CLASSES), lambda a, b: Rows(images[a:b]), count, stage="bank")
    return bank


def stage_for(surrogate, bank, consistency=0.0, steps=40):
    return teach_surrogate(
        "surrogate",
        surrogate,
        bank,
        toy_images(30, seed=5),
        steps=steps,
        consistency=consistency,
        hard_scale=1.0,
        seed=0,
        fill=-1.0,
    )


def train(stage, surrogate):
    player = stage.players["surrogate"]
    optimizer = player.optimizer([weight for weight in surrogate.parameters() if weight.requires_grad])
    schedule = player.schedule(optimizer)

    def update(losses):
        optimizer.zero_grad()
        losses["surrogate"].backward()
        optimizer.step()
        schedule.step()

    return [stage.step(stage.rows.batch(step, 64, Shard()), update, None) for step in range(stage.steps)]


@pytest.mark.parametrize("consistency", [0.0, 0.5])
def test_it_learns_the_teachers_answers_and_its_mean_answers(consistency):
    torch.manual_seed(0)
    surrogate = Surrogate(toy_student())
    seen = train(stage_for(surrogate, filled(), consistency), surrogate)
    assert ("inconsistency" in seen[-1]) == bool(consistency)
    new = toy_images(100, seed=9)
    surrogate.eval()
    answered = surrogate(new).argmax(1)
    assert (answered == ToyTeacher()(new).argmax(1)).float().mean() > 0.8
    assert torch.equal(surrogate(new), surrogate.averaged(new))


def test_the_mean_follows_the_network_and_has_no_gradient():
    surrogate = Surrogate(nn.Linear(2, 2)).train()
    assert not surrogate.averaged.training
    assert all(not weight.requires_grad for weight in surrogate.averaged.parameters())
    with torch.no_grad():
        surrogate.network.weight.fill_(1.0)
    before = surrogate.averaged.weight.clone()
    surrogate.average()
    assert torch.allclose(surrogate.averaged.weight, before.lerp(torch.ones(2, 2), 0.9))
    again = Surrogate(nn.Linear(2, 2))
    again.load_state_dict(surrogate.state_dict())
    assert float(again.updates) == 1, "a resumed surrogate knows how far its mean is"


@pytest.mark.parametrize(
    "shape, lenet",
    [((1, 8, 8), False), ((1, 16, 16), True), ((3, 32, 32), True), ((1, 24, 96), True), ((3, 64, 64), False)],
)
def test_there_is_a_network_for_every_size(shape, lenet):
    network = surrogate_network("wide", 5, shape, seed=1)
    assert isinstance(network, LeNet) == lenet
    again = surrogate_network("wide", 5, shape, seed=1)
    images = torch.rand(2, *shape)
    assert network(images).shape == (2, 5)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_an_unknown_network_is_named():
    with pytest.raises(UnknownName, match="unknown network 'wyde'"):
        surrogate_network("wyde", 5, (1, 16, 16), seed=0)


def test_rows_at_home_are_the_real_images_and_views_of_them_with_the_surrogates_answers():
    images, surrogate = toy_images(10, seed=0), Surrogate(toy_student()).eval()
    (rows,) = rows_at_home(surrogate, images, 3, seed=0, fill=-1.0)
    assert len(rows) == 30 and torch.equal(rows.images[:10], images)
    assert not torch.equal(rows.images[10:20], rows.images[20:])
    expected = surrogate(rows.images)
    found = rows.answers().scores()
    assert torch.allclose(found, expected - expected.mean(1, keepdim=True), atol=1e-5)
    (again,) = rows_at_home(surrogate, images, 3, seed=0, fill=-1.0)
    assert torch.equal(again.images, rows.images)


@pytest.mark.parametrize("most, parts", [(20, [20, 10]), (10, [10] * 3), (4, [4, 4, 2] * 3)])
def test_rows_at_home_of_many_images_come_in_parts(monkeypatch, most, parts):
    images, surrogate = toy_images(10, seed=0), Surrogate(toy_student()).eval()
    monkeypatch.setattr("mekd_plugin.mekd.surrogate._PART", most * images[0].numel() * 4)
    found = list(rows_at_home(surrogate, images, 3, seed=0, fill=-1.0))
    assert list(map(len, found)) == parts
    shown = torch.cat([rows.images for rows in found])
    assert torch.equal(shown[:10], images) and len(shown.flatten(1).unique(dim=0)) == 30


def test_softened_scores_keep_the_class_that_the_teacher_named():
    scores = torch.tensor([[1.0, 5.0, 0.0], [4.0, 2.0, 1.0]])
    found = softened(Response(torch.tensor([0, 0]), "hard", 3), scores)
    assert found.tolist() == [[5.0, 1.0, 0.0], [4.0, 2.0, 1.0]]


def test_a_joined_bank_holds_both_and_leaves_the_first_as_it_is():
    bank = filled(50)
    (home,) = rows_at_home(Surrogate(toy_student()).eval(), toy_images(10, seed=0), 2, seed=0, fill=-1.0)
    scores = bank.response.scores()
    joined = bank.joined(scores, [home[:15], home[15:]], 20)
    assert len(joined) == 70 and len(bank) == 50 == bank.asked == joined.asked
    assert torch.equal(joined.images[50:], home.images) and torch.equal(joined.response.values[:50], scores)
    with pytest.raises(InputError, match=r"rows of \(1, 8, 8\) with 3 scores cannot join 50 rows"):
        bank.joined(scores[:10], [home], 20)
    with pytest.raises(InputError, match="20 rows came to join, and 21 were announced"):
        bank.joined(scores, [home], 21)


def test_a_large_joined_bank_lies_in_a_file_without_a_name(tmp_path):
    bank, teacher = Bank("bank", memory_limit=1000), BlackBox(ToyTeacher(), "logits", CLASSES)
    bank.keep(tmp_path)
    bank.fill(teacher, lambda begin, end: Rows(toy_images(50, seed=1)[begin:end]), 50, stage="bank")
    before = sorted(path.name for path in tmp_path.iterdir())
    (home,) = rows_at_home(Surrogate(toy_student()).eval(), toy_images(10, seed=0), 2, seed=0, fill=-1.0)
    scores = bank.response.scores()
    small, joined = filled(50).joined(scores, [home], 20), bank.joined(scores, [home], 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "no file of that name, nor another bank"
    assert torch.equal(joined.images[:50], bank.images) and torch.equal(joined.images[50:], small.images[50:])
    joined.add_column("target", lambda rows: 2 * rows.images)
    batch = joined.order(0).batch(0, 16, Shard())
    assert torch.equal(batch.extra["target"], 2 * batch.images)


def test_of_many_images_fewer_views_stay_at_home(monkeypatch):
    monkeypatch.setattr("mekd_plugin.mekd.method._MOST_AT_HOME", 130)
    seen = []
    real = Bank.joined
    monkeypatch.setattr(Bank, "joined", lambda self, *rest: seen.append(rest[2]) or real(self, *rest))
    for images in (60, 300):
        teacher = BlackBox(ToyTeacher(), "logits", CLASSES, budget=60)
        recipe = mekd.Recipe(steps=4, batch_size=8)
        mekd.distill(
            toy_student(), teacher, toy_images(images, seed=1), "mekd", preset="tiny", recipe=recipe, progress=False
        )
    assert seen == [120, 300]


@pytest.mark.parametrize("kind, size, expected", [("hard", 150, 1.0), ("hard", 151, 0.0), ("logits", 20, 0.0)])
def test_consistency_is_for_few_hard_answers(kind, size, expected):
    values = torch.zeros(2, dtype=torch.int64) if kind == "hard" else torch.zeros(2, CLASSES)
    answers = Response(values, kind, CLASSES)
    assert consistency_for(None, answers, size) == expected
    assert consistency_for(0.3, answers, size) == 0.3 and consistency_for(0.0, answers, size) == 0.0


@pytest.mark.parametrize("settings, consistent", [({}, True), ({"consistency": 0.0}, False), ({"budget": 200}, False)])
@pytest.mark.filterwarnings("ignore")  # that so short a run teaches little
def test_both_surrogates_are_consistent_where_few_hard_answers_are_asked_for(settings, consistent):
    problem = {"responses": "hard", "num_classes": CLASSES, "budget": 100, "preset": "tiny", **settings}
    recipe = mekd.Recipe(steps=20)
    result = mekd.distill(
        toy_student(), ToyTeacher(), toy_images(60, seed=1), recipe=recipe, log_steps=1, progress=False, **problem
    )
    found = {line["stage"]: "inconsistency" in line for line in result.history if "surrogate" in line["stage"]}
    assert found == {"surrogate_1": consistent or "consistency" in settings, "surrogate": consistent}

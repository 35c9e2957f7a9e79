"""A method in somebody else's loop does what it does in ours."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.rows import Shard
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

METHODS = {
    "mekd": {"preset": "tiny", "emulation": "gan", "surrogate": None, "emulation_settings": {"steps": 20}},
    "mekd_bank": {"preset": "tiny", "emulation": "gan", "surrogate": None, "emulation_settings": {"steps": 20}},
    "logit_mimicry": {},
    "distribution_alignment": {},
    "kd": {},
}
STEPS, BATCH = 20, 32


def guest(student: nn.Module, method: str, teacher: nn.Module | None = None, **settings):
    box = mekd.BlackBox(teacher or ToyTeacher(), "logits", CLASSES, budget=300)
    wanted = {**METHODS[method], **settings}
    return mekd.host(student, box, toy_images(60, seed=1), method=method, progress=False, **wanted)


def train(hosted, student: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses: list[float] = []
    while len(losses) < steps:
        for images, _, numbers in hosted.loader(BATCH):
            if len(losses) == steps:
                break
            loss = hosted.losses(student, hosted.rows(images, numbers))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def sgd(student: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9)


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_those_of_our_own_loop(method):
    first, second = toy_student(), toy_student()
    second.load_state_dict(first.state_dict())
    recipe = Recipe(STEPS, BATCH, "sgd", 0.02, 0.0, "constant", translate=0)
    ours = mekd.distill(
        first,
        mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=300),
        toy_images(60, seed=1),
        method=method,
        recipe=recipe,
        log_steps=1,
        progress=False,
        **METHODS[method],
    )
    stage = "alignment" if method in ("mekd", "mekd_bank") else "student"
    expected = [entry["loss"] for entry in ours.history if entry["stage"] == stage]
    second.to(memory_format=torch.channels_last)  # as in our own loop: else sums are rounded differently
    hosted = guest(second, method)
    assert train(hosted, second, sgd(second), STEPS) == pytest.approx(expected, abs=1e-4)
    assert len(expected) == STEPS and hosted.ledger.by_stage == ours.ledger.by_stage


def test_a_critic_gets_its_own_gradient_only():
    student = toy_student()
    hosted = guest(student, "distribution_alignment")
    critic = hosted.players.networks["critic"]
    before = copy.deepcopy(critic.state_dict())
    images, _, numbers = next(iter(hosted.loader(BATCH)))
    loss = hosted.losses(student, hosted.rows(images, numbers))["loss"]
    loss.backward()
    assert all(weight.grad is None for weight in critic.parameters())  # the fooling gradient is not left in it
    hosted.players.settle()
    assert any((critic.state_dict()[name] != value).any() for name, value in before.items())


def test_scoring_without_gradients_trains_nothing():
    student = toy_student()
    hosted = guest(student, "distribution_alignment")
    images, _, numbers = next(iter(hosted.loader(BATCH)))
    with torch.no_grad():
        hosted.losses(student, hosted.rows(images, numbers))
    assert hosted.players.steps == 0


def test_the_hosts_checkpoint_holds_the_players(tmp_path):
    def undisturbed():
        student = toy_student()
        hosted = guest(student, "distribution_alignment")
        optimizer = sgd(student)
        return train(hosted, student, optimizer, 12)

    torch.manual_seed(5)
    whole = undisturbed()
    torch.manual_seed(5)
    student = toy_student()
    hosted = guest(student, "distribution_alignment")
    optimizer = sgd(student)
    begun = train(hosted, student, optimizer, 6)
    torch.save([student.state_dict(), hosted.players.state_dict(), optimizer.state_dict()], tmp_path / "host.pt")
    states = torch.load(tmp_path / "host.pt", weights_only=True)
    student = toy_student()
    hosted = guest(student, "distribution_alignment")
    optimizer = sgd(student)
    for part, state in zip((student, hosted.players, optimizer), states, strict=True):
        part.load_state_dict(state)
    assert begun + train(hosted, student, optimizer, 6) == pytest.approx(whole, abs=1e-6)


def test_what_was_prepared_is_neither_trained_nor_asked_again(tmp_path):
    student, teacher = toy_student(), ToyTeacher()
    guest(student, "mekd", teacher, directory=tmp_path / "run").close()
    asked = teacher.count
    untouched = copy.deepcopy(student.state_dict())
    with torch.no_grad():
        next(student.parameters()).add_(1)  # what the host's own checkpoint brought
    again = guest(student, "mekd", teacher, directory=tmp_path / "run", resume=True)
    assert teacher.count == asked == again.ledger.total == 300
    name = next(iter(untouched))
    assert torch.equal(student.state_dict()[name], untouched[name] + 1)


def test_the_host_may_drive_the_generators_stage(tmp_path):
    student, teacher = toy_student(), ToyTeacher()
    hosted = guest(student, "mekd", teacher, stepwise=True, directory=tmp_path / "run")
    assert hosted.stage.name == "deprivatization" and teacher.count == 0
    with pytest.raises(InputError, match="was not trained here"):
        hosted.finish_stage()
    for step in range(5):
        scalars = hosted.step(hosted.stage.rows.batch(step, 16, Shard()))
    assert torch.isfinite(scalars["loss"])
    state = torch.random.get_rng_state()
    hosted.finish_stage()
    assert torch.equal(state, torch.random.get_rng_state())  # the host's random numbers go on as they would have
    assert hosted.stage.trains_student and teacher.count == 300
    with pytest.raises(InputError, match="trains the student"):
        hosted.step(hosted.stage.rows.batch(0, 16, Shard()))
    assert (tmp_path / "run" / "generator.safetensors").exists()


def test_a_dataset_gives_the_rows_of_the_loader():
    hosted = guest(toy_student(), "mekd")
    dataset = hosted.dataset()
    images, labels, numbers = next(iter(hosted.loader(BATCH)))
    assert len(dataset) * 1.02 > 290
    for position, number in enumerate(numbers.tolist()):
        image, label, index = dataset[number]
        assert torch.equal(image, images[position]) and label == labels[position] and index == number


def test_rows_carry_the_hosts_augmentation():
    hosted = guest(toy_student(), "mekd")
    images, _, numbers = next(iter(hosted.loader(BATCH)))
    rows = hosted.rows(images.flip(3), numbers)
    assert torch.equal(rows.images, images.flip(3)) and "style" in rows.extra


def test_rows_asked_anew_are_counted_where_they_are_learnt_from():
    student, teacher = toy_student(), ToyTeacher()
    box = mekd.BlackBox(teacher, "logits", CLASSES)
    settings = {
        "preset": "tiny",
        "emulation": "gan",
        "surrogate": None,
        "emulation_settings": {"steps": 5},
        "mode": "fresh",
        "latent_temperature": 3.0,
    }
    hosted = mekd.host(student, box, toy_images(60, seed=1), progress=False, **settings)
    with pytest.raises(InputError, match="steps="):
        hosted.loader(BATCH)
    with pytest.raises(InputError, match="no dataset"):
        hosted.dataset()
    for images, _, numbers in hosted.loader(BATCH, steps=3):
        hosted.losses(student, hosted.rows(images, numbers))
    assert hosted.ledger.by_stage == {"alignment": 3 * BATCH} and teacher.count == 3 * BATCH


def test_the_hosts_own_images_cost_a_query_each():
    hosted = guest(toy_student(), "kd", queries=50)
    rows = hosted.ask(toy_images(10, seed=4))
    assert hosted.ledger.by_stage == {"transfer_set": 50, "host's images": 10}
    assert torch.isfinite(hosted.losses(toy_student(), rows)["loss"])
    with pytest.raises(NeedsNotMet, match="draws itself"):
        guest(toy_student(), "mekd").ask(toy_images(10, seed=4))


def test_too_large_a_batch_is_named():
    with pytest.raises(InputError, match="batch_size=1000"):
        guest(toy_student(), "mekd").loader(1000)


def test_held_out_rows_judge_the_hosts_student():
    hosted = guest(toy_student(), "kd", validation=0.1)
    assert 0 <= hosted.held_out_agreement(toy_student()) <= 1
    assert guest(toy_student(), "kd", validation=0.0).held_out_agreement(toy_student()) is None


FRESH = {"emulation_settings": {"steps": 5}, "mode": "fresh", "latent_temperature": 3.0}


def asking_host(directory, teacher: nn.Module, method: str, **settings):
    """A student in its own loop that asks at every step, saves itself after step 2, and is stopped after step 4."""
    student = toy_student()
    box = mekd.BlackBox(teacher, "logits", CLASSES, budget=400)
    wanted = {**settings, "directory": directory, "resume": True, "progress": False}
    return student, mekd.host(student, box, toy_images(60, seed=1), method=method, **wanted)


def ask_and_learn(hosted, student, optimizer, pages, save=lambda done: None):
    for done, page in enumerate(pages, start=1):
        rows = page if not isinstance(page, torch.Tensor) else hosted.ask(page)
        loss = hosted.losses(student, rows)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        save(done)


def test_a_host_that_asks_about_its_own_images_goes_on(tmp_path):
    pages, teacher = [toy_images(10, seed=seed) for seed in range(20, 26)], ToyTeacher()
    student, hosted = asking_host(tmp_path / "run", teacher, "kd", queries=50)

    def save(done):
        if done == 2:
            torch.save([student.state_dict(), hosted.players.state_dict()], tmp_path / "host.pt")

    ask_and_learn(hosted, student, sgd(student), pages[:4], save)
    paid = teacher.count
    assert paid == 50 + 4 * 10
    hosted.close()

    student, hosted = asking_host(tmp_path / "run", teacher, "kd", queries=50)
    for part, state in zip((student, hosted.players), torch.load(tmp_path / "host.pt"), strict=True):
        part.load_state_dict(state)
    ask_and_learn(hosted, student, sgd(student), pages[2:4])
    assert teacher.count == paid  # what was asked after the host's checkpoint is answered again
    ask_and_learn(hosted, student, sgd(student), pages[4:])
    assert teacher.count == hosted.ledger.total == paid + 20 and hosted.ledger.uncertain == 0


def test_a_host_that_asks_otherwise_when_it_goes_on_pays_for_it_and_is_told(tmp_path):
    teacher = ToyTeacher()
    student, hosted = asking_host(tmp_path / "run", teacher, "kd", queries=50)
    ask_and_learn(hosted, student, sgd(student), [toy_images(10, seed=20), toy_images(10, seed=21)])
    hosted.close()
    student, hosted = asking_host(tmp_path / "run", teacher, "kd", queries=50)
    with pytest.warns(UserWarning, match="20 answers that were paid for are given up"):
        ask_and_learn(hosted, student, sgd(student), [toy_images(10, seed=30)])
    assert teacher.count == hosted.ledger.total == 80 and hosted.ledger.uncertain == 0


def test_what_a_host_asked_otherwise_is_kept_for_its_next_life(tmp_path):
    teacher = ToyTeacher()
    told = []
    for life, seed in enumerate((20, 30, 30, 30)):
        student, hosted = asking_host(tmp_path / "run", teacher, "kd", queries=50)
        before = teacher.count
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ask_and_learn(hosted, student, sgd(student), [toy_images(10, seed=seed)])
        told.append(sum("are given up" in str(warning.message) for warning in caught))
        assert teacher.count - before == (10, 10, 0, 0)[life]
        assert hosted.ledger.total == teacher.count and hosted.ledger.uncertain == 0
        hosted.close()
    assert told == [0, 1, 0, 0]
    (tmp_path / "run" / "ledger-0.jsonl").unlink()  # the journal knows what was given up
    with pytest.warns(UserWarning, match="was cut, emptied or lost"):
        student, hosted = asking_host(tmp_path / "run", teacher, "kd", queries=50)
    assert hosted.ledger.total == teacher.count == 70 and hosted.ledger.by_stage["host's images"] == 20
    hosted.close()


def test_rows_asked_anew_are_replayed_from_the_hosts_checkpoint(tmp_path):
    def pages(hosted, steps):
        for images, _, numbers in hosted.loader(8, steps=steps):
            yield hosted.rows(images, numbers)

    def save(done):
        if done == 2:
            torch.save([student.state_dict(), hosted.players.state_dict()], tmp_path / "host.pt")

    teacher = ToyTeacher()
    student, hosted = asking_host(tmp_path / "run", teacher, "mekd", preset="tiny", **FRESH)
    ask_and_learn(hosted, student, sgd(student), pages(hosted, 4), save)
    assert teacher.count == 4 * 8
    hosted.close()

    student, hosted = asking_host(tmp_path / "run", teacher, "mekd", preset="tiny", **FRESH)
    for part, state in zip((student, hosted.players), torch.load(tmp_path / "host.pt"), strict=True):
        part.load_state_dict(state)
    torch.manual_seed(7)  # what the host draws itself is not our business
    ask_and_learn(hosted, student, sgd(student), pages(hosted, 2))
    assert hosted.players.steps == 4 and teacher.count == hosted.ledger.total == 4 * 8


def test_a_copy_of_the_players_leads_to_no_teacher(tmp_path):
    _, hosted = asking_host(tmp_path / "run", ToyTeacher(), "distribution_alignment", queries=50)
    assert vars(copy.deepcopy(hosted.players))["_teacher"] is None
    assert copy.deepcopy(hosted.players).state_dict()["_extra_state"]["steps"] == 0

"""What is kept of answers given within steps: the last ones, in order; and how far a budget reaches."""

import pytest
import torch

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.replay import FirstRows, Replay
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.synthetic_steps import covered
from mekd_plugin.testing import CLASSES, ToyTeacher


def numbered(*numbers):
    images = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return images, Response(torch.tensor([[number, 0.0, 0.0] for number in numbers]), "logits", 3)


def test_the_last_answers_stay_beside_their_images():
    replay = Replay(5, (1, 2, 2), "logits", 3, seed=0)
    for numbers in ([1, 2, 3], [4, 5, 6], [7]):
        replay.keep(*numbered(*numbers))
    rows = replay.rows()
    assert len(replay) == 5
    assert sorted(rows.images[:, 0, 0, 0].tolist()) == [3, 4, 5, 6, 7]
    assert torch.equal(rows.images[:, 0, 0, 0], rows.answers().values[:, 0])


def test_what_was_kept_is_restored_with_the_state():
    replay, other = (Replay(4, (1, 2, 2), "logits", 3, seed=0) for _ in range(2))
    replay.keep(*numbered(1, 2, 3))
    other.load_state_dict(replay.state_dict())
    assert len(other) == 3
    assert torch.equal(other.batch(7, 2, Shard()).images, replay.batch(7, 2, Shard()).images)


def test_only_what_was_kept_is_shown():
    replay = Replay(50, (1, 2, 2), "hard", 3, seed=0)
    replay.keep(torch.ones(3, 1, 2, 2), Response(torch.tensor([0, 1, 2]), "hard", 3))
    batch = replay.batch(0, 6, Shard())
    assert (batch.images == 1).all() and batch.answers().labels.bincount().tolist() == [2, 2, 2]


@pytest.mark.parametrize(("budget", "count", "within"), [(None, 10**9, True), (100, 40, True), (100, 41, False)])
def test_a_budget_reaches_as_far_as_it_does(budget, count, within):
    teacher = BlackBox(ToyTeacher(), "logits", CLASSES, budget=budget)
    teacher.query(torch.zeros(60, 1, 8, 8))
    assert covered(teacher, count) == within


def test_first_rows_are_kept_on_the_device_of_what_keeps_them():
    """Rows come from where they were drawn; the player may lie on another device."""

    class Source:
        def batch(self, step, size, shard):
            return Rows(torch.ones(size, 1, 2, 2), Response(torch.zeros(size, 3), "logits", 3))

    kept = Replay(10, (1, 2, 2), "logits", 3, seed=0).to("meta")
    assert len(FirstRows(Source(), kept).batch(0, 4, Shard())) == 4
    assert kept.images.device.type == "meta"

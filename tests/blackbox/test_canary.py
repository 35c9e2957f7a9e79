"""A resumed run asks about a few images of its first life again, until it knows that the teacher is still the same."""

from __future__ import annotations

import pytest
import torch

from mekd_plugin.blackbox import BlackBox, Retry
from mekd_plugin.errors import Refused, TeacherAnswerError, TeacherChanged, TeacherUnavailable


class Service:
    """Scores that are ``shift`` off; fails where ``errors``, one a call, say so."""

    def __init__(self):
        self.shift, self.errors, self.asked = 0.0, [], []

    def __call__(self, images):
        error = self.errors.pop(0) if self.errors else None
        if not isinstance(error, Refused):
            self.asked.append(len(images))
        if isinstance(error, BaseException):
            raise error
        return (images.flatten(1)[:, :3] + self.shift) * (error or 1)


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def resumed(service, images, tmp_path):
    """``resumed(...)``: a black box whose first life asked about four images, in two batches."""
    first = BlackBox(service, "logits", 3, batch_size=2, identity="s", on_drift="error")
    first.keep(tmp_path)
    first.query(images[:4])
    first.release()
    service.asked.clear()

    def make(**settings):
        settings = {"batch_size": 2, "on_drift": "error", **settings}
        box = BlackBox(service, "logits", 3, identity="s", **settings)
        box.keep(tmp_path)
        box.query(images[:4])  # from the journal
        assert service.asked == []
        return box

    return make


@pytest.mark.parametrize("failed", [0, 1], ids=["the first", "the second"])
@pytest.mark.parametrize(
    "error",
    [ConnectionResetError("gone"), Refused("503"), KeyError("scores"), KeyboardInterrupt(), float("nan")],
    ids=repr,
)
def test_a_look_that_failed_is_taken_again(service, resumed, images, error, failed):
    box = resumed()
    service.shift, service.errors = 1.0, [None] * failed + [error]
    with pytest.raises((TeacherUnavailable, KeyError, KeyboardInterrupt, TeacherAnswerError)):
        box.query(images[4:])
    with pytest.raises(TeacherChanged, match=r"asked again about 4 of its first images, it answers 4 otherwise"):
        box.query(images[4:])
    assert box.ledger.total == 4 and box.ledger.evaluation == sum(service.asked)


def test_a_look_that_failed_says_nothing_against_the_same_teacher(service, resumed, images):
    box = resumed()
    service.shift, service.errors = 1.0, [None, ConnectionResetError("gone")]
    with pytest.raises(TeacherUnavailable):
        box.query(images[4:])
    service.shift = 0.0  # the half look at another one is forgotten
    box.query(images[4:])
    assert service.asked == [2, 2, 2, 2, 2, 2, 2] and (box.ledger.total, box.ledger.evaluation) == (10, 8)


@pytest.mark.parametrize("concurrent", [1, 4])
def test_another_teacher_is_refused_each_time_and_looked_at_once(service, resumed, images, concurrent):
    box = resumed(concurrent=concurrent, retry=Retry(attempts=2, wait=0))
    service.shift = 1.0
    for ask in (box.query, box.query, box.evaluate, box.as_module()):
        with pytest.raises(TeacherChanged, match="start a new run"):
            ask(images[4:])
    assert service.asked == [2, 2] and (box.ledger.total, box.ledger.evaluation) == (4, 4)
    assert torch.equal(resumed_answers(box, images), images[:4].flatten(1)[:, :3])


def resumed_answers(box, images):
    """What was kept goes on being answered."""
    box.journal.rewind(0)
    return box.query(images[:4]).values


def test_the_next_life_looks_again(service, resumed, images):
    service.shift = 1.0
    with pytest.raises(TeacherChanged):
        resumed().query(images[4:])
    service.asked.clear()
    service.shift = 0.0  # it was put back
    box = resumed()
    box.query(images[4:])
    assert (box.ledger.total, box.ledger.evaluation) == (10, 8)


def test_a_warning_is_given_once(service, resumed, images, recwarn):
    box = resumed(on_drift="warn")
    service.shift = 1.0
    box.query(images[4:8])
    box.query(images[8:])
    assert sum("the teacher has changed" in str(warning.message) for warning in recwarn.list) == 1
    assert (box.ledger.total, box.ledger.evaluation) == (10, 4)

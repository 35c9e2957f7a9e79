"""A teacher that fails, refuses, hangs or exits: what is counted, what is kept, what the error says."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from mekd_plugin.blackbox import BlackBox, Ledger, Peers, RateLimit, Retry, meter
from mekd_plugin.errors import (
    InputError,
    MekdError,
    NeedsNotMet,
    QueryBudgetExceeded,
    Refused,
    TeacherAnswerError,
    TeacherUnavailable,
)


class Unreliable:
    """A service that fails in the order it is told to, and knows what it received."""

    def __init__(self, *errors: BaseException | None) -> None:
        self.errors = list(errors)
        self.received = 0

    def __call__(self, images):
        error = self.errors.pop(0) if self.errors else None
        if not isinstance(error, Refused | ConnectionRefusedError):
            self.received += len(images)
        if error is not None:
            raise error
        return images.flatten(1)[:, :3].clone()


def boxed(teacher, **settings):
    return BlackBox(teacher, "logits", 3, identity="unreliable", **{"batch_size": 4, **settings})


QUICK = Retry(attempts=3, wait=0)


def test_every_attempt_counts_and_a_lost_one_is_uncertain(images):
    teacher = Unreliable(None, ConnectionResetError("gone"), TimeoutError("late"))
    box = boxed(teacher, retry=QUICK)
    values = box.query(images).values
    assert torch.equal(values, images.flatten(1)[:, :3])
    assert box.ledger.total == teacher.received == 18 and box.ledger.uncertain == 8 and box.ledger.distinct == 10


def test_the_last_attempts_error_is_raised(images):
    teacher = Unreliable(*[ConnectionError(f"attempt {number}") for number in range(1, 9)])
    box = boxed(teacher, retry=QUICK)
    with pytest.raises(ConnectionError, match="attempt 3"):
        box.query(images)
    assert box.ledger.total == box.ledger.uncertain == teacher.received == 12


def test_attempts_stay_within_the_budget(images):
    teacher = Unreliable(*[ConnectionError("gone")] * 9)
    box = boxed(teacher, retry=Retry(attempts=9, wait=0), budget=11)
    with pytest.raises(QueryBudgetExceeded, match="query budget of 11: 8 are spent"):
        box.query(images)
    assert box.ledger.total == teacher.received == 8


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("error", "size"), [(Refused("503"), 4), (ConnectionRefusedError("nobody listens"), 1)], ids=["503", "nobody"]
)
def test_a_refused_batch_costs_nothing(images, tmp_path, error, size, kept):
    teacher = Unreliable(error, None, error, error)
    box = boxed(teacher, retry=QUICK, budget=10, batch_size=size)
    if kept:
        box.keep(tmp_path)
    box.query(images)
    expected = {"by_stage": {"query": 10}, "total": 10, "distinct": 10, "uncertain": 0, "evaluation": 0}
    assert box.ledger.as_record() == expected and teacher.received == 10
    if kept:
        box.release()
        again = boxed(teacher, budget=10, batch_size=size)
        again.keep(tmp_path)
        assert again.ledger.as_record() == expected


def test_a_refusal_that_is_not_retried_is_an_error_and_costs_nothing(images):
    box = boxed(Unreliable(None, ConnectionRefusedError("nobody listens")), budget=10, batch_size=1)
    with pytest.raises(Refused, match=r"batch 2 \(1 images for 'query'\), the connection was refused") as caught:
        box.query(images)
    assert isinstance(caught.value, MekdError) and isinstance(caught.value, ConnectionError)
    assert box.ledger.total == box.ledger.distinct == 1 and box.ledger.uncertain == 0
    box.query(images[:9])
    assert box.ledger.remaining == 0


@pytest.mark.parametrize("door", ["query", "meter"])
def test_a_connection_that_is_refused_on_the_way_leaves_the_batch_uncertain(images, door):
    """A function that sends an image at a time, and finds nobody there any more."""
    received = []

    def teacher(batch):
        for image in batch:
            if len(received) == 6:
                raise ConnectionRefusedError("nobody listens")
            received.append(image)
        return batch.flatten(1)[:, :3]

    asked = boxed(teacher) if door == "query" else meter(teacher)
    with pytest.raises(TeacherUnavailable, match="a connection was refused .*so the images count") as caught:
        asked.query(images) if door == "query" else asked(images)
    assert not isinstance(caught.value, Refused)
    expected = (8, 4) if door == "query" else (10, 10)
    assert (asked.ledger.total, asked.ledger.uncertain) == expected and len(received) == 6


def test_only_errors_that_were_named_are_tried_again(images):
    box = boxed(Unreliable(KeyError("scores")), retry=QUICK)
    with pytest.raises(KeyError):
        box.query(images)
    assert box.ledger.total == 4
    other = boxed(Unreliable(KeyError("scores")), retry=Retry(attempts=2, wait=0, on=(KeyError, OSError)))
    other.query(images)
    assert other.ledger.total == 14


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), TimeoutError("late")], ids=repr)
def test_out_of_reach_is_said_with_the_batch_and_what_is_kept(images, tmp_path, error):
    box = boxed(Unreliable(None, error))
    box.keep(tmp_path)
    with pytest.raises(TeacherUnavailable) as caught:
        box.query(images, stage="bank")
    said = str(caught.value)
    for words in ("batch 2 (4 images for 'bank')", type(error).__name__, "so they count", "answers to 1 batches"):
        assert words in said
    assert "8 images sent" in said and "4 uncertain" in said and str(tmp_path) in said
    assert isinstance(caught.value, ConnectionError) and isinstance(caught.value, TimeoutError)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), InputError("images of another size")], ids=repr)
def test_other_errors_stay_what_they_are_with_a_note(images, error):
    box = boxed(Unreliable(None, error))
    with pytest.raises(type(error)) as caught:
        box.query(images, stage="bank")
    assert caught.value is error and "batch 2 (4 images for 'bank')" in error.__notes__[0]


@pytest.mark.parametrize("door", ["query", "as_module", "meter"])
@pytest.mark.parametrize("status", [0, None, 3])
def test_a_teacher_that_exits_ends_no_process(images, door, status):
    teacher = Unreliable(SystemExit(status))
    asked = {
        "query": lambda: boxed(teacher).query(images),
        "as_module": lambda: boxed(teacher).as_module()(images),
        "meter": lambda: meter(teacher)(images),
    }
    with pytest.raises(TeacherAnswerError, match=rf"it raised SystemExit\({status}\)"):
        asked[door]()


def test_a_meter_counts_no_refused_batch(images):
    teacher = Unreliable(Refused("429"), ConnectionError("gone"))
    metered = meter(teacher)
    for error in (Refused, TeacherUnavailable):
        with pytest.raises(error):
            metered(images)
    metered(images)
    assert metered.ledger.total == teacher.received == 20 and metered.ledger.uncertain == 10


def test_a_hanging_call_is_given_up(images):
    let_go, calls = threading.Event(), []

    def teacher(batch):
        calls.append(len(batch))
        if len(calls) == 1:
            let_go.wait(20)
        return torch.zeros(len(batch), 3)

    box = boxed(teacher, timeout=0.1, retry=QUICK)
    try:
        assert box.query(images).values.shape == (10, 3)
    finally:
        let_go.set()
    assert box.ledger.total == sum(calls) == 14 and box.ledger.uncertain == 4
    with pytest.raises(TeacherUnavailable, match="no answer within timeout=0.05 seconds"):
        boxed(lambda batch: time.sleep(0.5), timeout=0.05).query(images)


def test_within_a_timeout_all_is_as_without(images):
    seen = []

    def teacher(batch):
        seen.append(torch.is_grad_enabled())
        if len(seen) == 2:
            raise KeyError("scores")
        return batch.flatten(1)[:, :3].clone()

    box = boxed(teacher, timeout=20)
    assert torch.equal(box.query(images[:4]).values, images[:4].flatten(1)[:, :3])
    with pytest.raises(KeyError):
        box.query(images[:4])
    assert seen == [False, False]


def test_a_rate_is_kept_by_all_who_share_it(images, monkeypatch):
    """On a clock of the test's own: nothing here is measured."""
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(round(seconds, 6))
        now[0] += seconds

    monkeypatch.setattr("mekd_plugin.blackbox.patience.time.monotonic", lambda: now[0])
    monkeypatch.setattr("mekd_plugin.blackbox.patience.time.sleep", sleep)
    limit = RateLimit(per_second=4)
    first, second = boxed(Unreliable(), rate_limit=limit), boxed(Unreliable(), rate_limit=limit)
    first.query(images)
    second.query(images[:4])
    assert slept == [0, 0.25, 0.25, 0.25]


def test_waits_grow_and_hold_nothing_random(monkeypatch, images):
    slept = []
    monkeypatch.setattr("time.sleep", lambda seconds: slept.append(seconds))
    boxed(Unreliable(*[ConnectionError("gone")] * 3), retry=Retry(attempts=4, wait=0.5)).query(images)
    assert slept == [0.5, 1.0, 2.0]


def test_retries_take_a_single_process(images):
    ledger = Ledger()
    ledger.peers = Peers(0, 2, lambda tensor: torch.cat([tensor, tensor]))
    with pytest.raises(NeedsNotMet, match="retry= in a run of several processes"):
        boxed(Unreliable(), retry=QUICK, ledger=ledger).query(images)

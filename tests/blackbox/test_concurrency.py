"""Questions that are open at the same time: the answers, the count and the journal are those of one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from mekd_plugin.blackbox import BlackBox, Retry
from mekd_plugin.errors import InputError, QueryBudgetExceeded, Refused, RefusedForGood, TeacherUnavailable

ROOT = Path(__file__).parents[2]


class Service:
    """Answers by value, in an order of its own; ``fail`` maps the first value of a batch to its errors."""

    def __init__(self, fail=None):
        self.fail = {key: list(errors) for key, errors in (fail or {}).items()}
        self.computed, self.most, self.now = [], 0, 0
        self.lock = threading.Lock()

    def __call__(self, images):
        first = int(images[0, 0, 0, 0])
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            error = self.fail[first].pop(0) if self.fail.get(first) else None
        try:
            time.sleep(0.004 * ((first * 7) % 5 + 1))  # later questions may be answered first
            if not isinstance(error, Refused):
                with self.lock:
                    self.computed.append(len(images))
            if error is not None:
                raise error
            return images.flatten(1)[:, :3].clone()
        finally:
            with self.lock:
                self.now -= 1


def numbered(count):
    return torch.arange(count).float().view(count, 1, 1, 1).expand(count, 1, 2, 2).clone()


def boxed(service, **settings):
    settings = {"batch_size": 1, "concurrent": 4, "value_range": (0, 1000), **settings}
    return BlackBox(service, "logits", 3, identity="service", **settings)


def expected(images):
    return images.flatten(1)[:, :3]


def test_answers_come_in_the_order_of_the_questions():
    service, images = Service(), numbered(30)
    box = boxed(service)
    assert torch.equal(box.query(images).values, expected(images))
    assert 2 <= service.most <= 4 and box.ledger.total == sum(service.computed) == 30 and box.ledger.uncertain == 0


def test_every_attempt_counts_and_refused_ones_do_not():
    fail = {3: [ConnectionError("gone"), TimeoutError("late")], 5: [Refused("503")], 9: [ConnectionError("gone")]}
    service, images = Service(fail), numbered(20)
    box = boxed(service, retry=Retry(attempts=4, wait=0))
    assert torch.equal(box.query(images).values, expected(images))
    assert box.ledger.total == sum(service.computed) == 23 and box.ledger.uncertain == 3 and box.ledger.distinct == 20


@pytest.mark.parametrize("error", [ConnectionError("gone"), RefusedForGood("402")], ids=repr)
def test_what_was_answered_beside_a_failure_is_never_paid_again(tmp_path, error):
    service, images = Service({2: [error]}), numbered(24)
    box = boxed(service, budget=40)
    box.keep(tmp_path)
    with pytest.raises(TeacherUnavailable):
        box.query(images)
    box.release()
    paid, lost = sum(service.computed), box.ledger.uncertain
    assert box.ledger.total == paid and lost == (0 if isinstance(error, RefusedForGood) else 1)
    again = boxed(service, budget=24 + lost)  # enough only if every answer that was paid for serves
    again.keep(tmp_path)
    assert again.ledger.total == paid and again.ledger.uncertain == lost
    assert torch.equal(again.query(images).values, expected(images))
    assert again.ledger.total == sum(service.computed) == 24 + lost
    again.release()
    third = boxed(Service(), budget=24 + lost)  # and the journal is in order again
    third.keep(tmp_path)
    assert torch.equal(third.query(images).values, expected(images)) and third.ledger.total == 24 + lost


def test_early_answers_survive_a_lost_ledger(tmp_path):
    service, images = Service({0: [ConnectionError("gone")]}), numbered(6)
    box = boxed(service)
    box.keep(tmp_path)
    with pytest.raises(TeacherUnavailable):
        box.query(images)
    box.release()
    kept = box.ledger.total - box.ledger.uncertain
    (tmp_path / "ledger-0.jsonl").unlink()
    again = boxed(service)
    with pytest.warns(UserWarning, match="cut, emptied or lost"):
        again.keep(tmp_path)
    assert kept >= 1 and again.ledger.by_stage["query"] == kept
    assert torch.equal(again.query(images).values, expected(images))


def test_early_answers_make_no_room_for_other_questions(tmp_path):
    """The budget refuses these as a whole; what the early answers belong to fits in."""
    service, images = Service({0: [ConnectionError("gone")]}), numbered(20)
    all_are_open = threading.Barrier(4)

    def teacher(asked):
        if not service.computed:
            all_are_open.wait(20)
        return service(asked)

    box = boxed(teacher, batch_size=2, budget=16)
    box.keep(tmp_path)
    with pytest.raises(TeacherUnavailable):
        box.query(images[:8])
    assert box.ledger.total == 8 and box.ledger.uncertain == 2 and box.journal.images_ahead == 6
    for stage, other in (("query", images[8:]), ("other", images[:12]), ("query", images[1:11])):
        with pytest.raises(QueryBudgetExceeded, match="nothing was sent"):
            box.query(other, stage=stage)
    with pytest.raises(QueryBudgetExceeded, match="about 14 images"):  # each answer serves once
        box.query(torch.cat([images[:8], images[:8], images[8:12]]))
    assert sum(service.computed) == box.ledger.total == 8
    assert torch.equal(box.query(images[:14]).values, expected(images[:14]))
    assert sum(service.computed) == box.ledger.total == 16 and box.ledger.remaining == 0


def test_an_error_stops_those_that_wait(tmp_path):
    """Another question's next attempt is a minute away; an exhausted balance ends the run at once."""
    waits = {1: [Refused("503")] * 9}
    waits[1][0].retry_after = 60.0
    service = Service({**waits, 3: [RefusedForGood("402")]})
    box = boxed(service, retry=Retry(attempts=3, wait=0))
    began = time.monotonic()
    with pytest.raises(RefusedForGood, match="402"):
        box.query(numbered(12))
    assert time.monotonic() - began < 50


def test_attempts_of_many_stay_within_the_budget(tmp_path):
    service = Service({number: [ConnectionError("gone")] * 3 for number in range(0, 20, 2)})
    box = boxed(service, budget=22, retry=Retry(attempts=4, wait=0))
    box.keep(tmp_path)
    with pytest.raises(QueryBudgetExceeded):
        box.query(numbered(20))
    assert box.ledger.total == sum(service.computed) <= 22


def test_a_module_is_not_asked_so():
    with pytest.raises(InputError, match="concurrent=2 of a module"):
        BlackBox(torch.nn.Flatten(), "logits", 3, concurrent=2)
    with pytest.raises(InputError, match="concurrent=65: expected a whole number of batches from 1 to 64"):
        boxed(Service(), concurrent=65)


LIFE = """
import os, sys, threading
from tests.blackbox.test_concurrency import boxed, numbered

asked, lock = [], threading.Lock()

def teacher(images):
    with lock:
        asked.append(1)
        os.write(computed, b"1")
        if len(asked) == 9:
            os._exit(9)  # as kill -9 does it: nothing is closed or written any more
    return images.flatten(1)[:, :3].clone()

computed = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
box = boxed(teacher)
box.keep(sys.argv[1])
box.query(numbered(20))
"""


def test_a_killed_process_loses_no_more_than_was_open(tmp_path):
    computed = tmp_path / "computed"
    command = [sys.executable, "-c", LIFE, str(tmp_path / "run"), str(computed)]
    died = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert died.returncode == 9, died.stderr
    service, images = Service(), numbered(20)
    again = boxed(service)
    again.keep(tmp_path / "run")
    first = len(computed.read_bytes())
    assert first == 9 <= again.ledger.total <= 9 + 4 and 1 <= again.ledger.uncertain <= 4 + 1
    assert torch.equal(again.query(images).values, expected(images))
    assert again.ledger.total - again.ledger.uncertain == 20
    assert again.ledger.total >= first + sum(service.computed)

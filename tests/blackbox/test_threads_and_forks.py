"""Threads take turns and a fork is turned away: with real threads and a real DataLoader's workers."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mekd_plugin.blackbox import BlackBox, Ledger, meter
from mekd_plugin.errors import InputError, QueryBudgetExceeded


class Slow:
    """A teacher that lets other threads run while it answers, and counts what arrived."""

    def __init__(self) -> None:
        self.received = 0
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def __call__(self, images):
        with self.lock:
            self.received += len(images)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.002)
        with self.lock:
            self.at_once -= 1
        return images.flatten(1)[:, :3].clone()


def in_threads(count: int, work) -> list[BaseException | None]:
    """``work(number)`` in each thread at the same time; how they ended."""
    ends: list[BaseException | None] = [None] * count
    start = threading.Barrier(count, timeout=20)

    def body(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            ends[number] = error

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "in a directory"])
@pytest.mark.parametrize("door", ["black box", "as_module", "two boxes"])
def test_sixteen_threads_stay_within_the_budget(tmp_path, some_images, kept, door):
    teacher = Slow()
    ledger = Ledger(100)
    box = BlackBox(teacher, "logits", 3, ledger=ledger)
    other = BlackBox(teacher, "logits", 3, ledger=ledger) if door == "two boxes" else box
    if kept:
        box.keep(tmp_path)
    module = box.as_module()

    def work(number):
        images = some_images(3, seed=number)
        for _ in range(5):
            if door == "as_module":
                assert torch.equal(module(images), images.flatten(1)[:, :3])
            else:
                values = (box, other)[number % 2].query(images).values
                assert torch.equal(values, images.flatten(1)[:, :3])

    ends = in_threads(16, work)
    assert all(end is None or isinstance(end, QueryBudgetExceeded) for end in ends), ends
    assert ledger.total == teacher.received == 99 and ledger.uncertain == 0
    assert teacher.most_at_once == 1
    if kept:
        box.release()
        again = BlackBox(teacher, "logits", 3, budget=100, identity="slow")
        again.ledger.attach(tmp_path)
        assert again.ledger.total == 99 and again.ledger.uncertain == 0


def test_threads_under_a_meter_stay_within_the_budget(some_images):
    teacher = Slow()
    metered = meter(teacher, budget=100)
    ends = in_threads(16, lambda number: [metered(some_images(3, seed=number)) for _ in range(5)])
    assert sum(isinstance(end, QueryBudgetExceeded) for end in ends) > 0
    assert metered.ledger.total == teacher.received == 99 and metered.ledger.uncertain == 0


class AsksItsTeacher(Dataset):
    """What a user may write: the labels are asked for where the images are loaded."""

    def __init__(self, ask, images) -> None:
        self.ask, self.images = ask, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        return self.ask(self.images[index : index + 1])


FORKED_DOORS = {
    "black box": lambda probe: (
        box := BlackBox(probe, "logits", 3, budget=50),
        lambda images: box.query(images).values,
    ),
    "evaluate": lambda probe: (box := BlackBox(probe, "logits", 3), lambda images: box.evaluate(images).values),
    "as_module": lambda probe: (BlackBox(probe, "logits", 3, budget=50).as_module(),) * 2,
    "meter": lambda probe: (meter(probe, budget=50),) * 2,
}


@pytest.mark.parametrize("door", FORKED_DOORS)
def test_a_loaders_workers_are_turned_away(probe, some_images, door):
    counted, ask = FORKED_DOORS[door](probe)
    loader = DataLoader(AsksItsTeacher(ask, some_images(80)), num_workers=2, multiprocessing_context="fork")
    with pytest.raises(InputError, match="made its black box and counts its queries: ask in that process"):
        list(loader)
    assert counted.ledger.total == counted.ledger.evaluation == 0
    assert len(list(DataLoader(AsksItsTeacher(ask, some_images(8)), num_workers=0))) == 8
    assert counted.ledger.total + counted.ledger.evaluation == 8


def test_a_fork_is_turned_away_while_another_thread_asks(some_images):
    """The forked copy of a lock that is held would never be let go of: the process is looked at first."""
    teacher = Slow()
    box = BlackBox(teacher, "logits", 3)
    asking = threading.Thread(target=lambda: [box.query(some_images(2)) for _ in range(50)])
    asking.start()
    receiving, sending = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        try:
            box.query(some_images(1))
            sending.send("answered")
        except InputError as error:
            sending.send(str(error))
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert receiving.poll(20), "the fork hangs"
    assert f"process {os.getpid()} made its black box" in receiving.recv()
    process.join()
    asking.join()


def test_a_process_that_makes_its_own_black_box_may_ask():
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)

    def child() -> None:
        box = BlackBox(lambda images: images.flatten(1), "logits", 16)
        box.query(torch.zeros(2, 1, 4, 4))
        sending.send(box.ledger.total)
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    assert receiving.poll(20) and receiving.recv() == 2
    process.join()


def test_a_fork_cannot_take_over_a_directory(tmp_path):
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    box = BlackBox(lambda images: images.flatten(1), "logits", 16)

    def child() -> None:
        try:
            box.keep(tmp_path)
        except InputError as error:
            sending.send(str(error))
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    assert receiving.poll(20) and "made its black box and counts its queries" in receiving.recv()
    process.join()
    assert not list(tmp_path.iterdir())

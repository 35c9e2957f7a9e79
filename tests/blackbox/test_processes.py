"""Several processes share a budget and a bank: here threads, each with a black box of its own, that gather in step."""

from __future__ import annotations

import threading

import pytest
import torch

from mekd_plugin.blackbox import Bank, BlackBox, Ledger, Peers
from mekd_plugin.errors import NeedsNotMet, QueryBudgetExceeded
from mekd_plugin.rows import Rows


class Meeting:
    """``gather`` for threads."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.barrier = threading.Barrier(world, timeout=20)
        self.brought: list[torch.Tensor | None] = [None] * world

    def gather(self, rank: int, tensor: torch.Tensor) -> torch.Tensor:
        assert tensor.device.type == "cpu"
        self.brought[rank] = tensor
        self.barrier.wait()
        everything = torch.cat(self.brought)
        self.barrier.wait()
        return everything

    def run(self, work):
        """``work(processes)`` in each thread; returns their results, or the exceptions they ended with."""
        results = [None] * self.world

        def body(rank: int) -> None:
            try:
                results[rank] = work(Peers(rank, self.world, lambda tensor: self.gather(rank, tensor)))
            except BaseException as error:
                results[rank] = error

        threads = [threading.Thread(target=body, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


@pytest.fixture(params=[2, 3])
def meeting(request):
    return Meeting(request.param)


@pytest.fixture
def draw(some_images):
    pool = some_images(700)
    return lambda start, stop: Rows(pool[start:stop], extra={"index": torch.arange(start, stop)})


def boxed(probe, processes, directory=None, *, responses="logits", budget=None, batch_size=256):
    box = BlackBox(probe, responses, 3, budget=budget, batch_size=batch_size)
    box.ledger.peers = processes
    if directory is not None:
        box.keep(directory, processes.rank)
    return box


def test_every_ledger_holds_the_numbers_of_all(meeting):
    def work(processes):
        ledger = Ledger()
        ledger.peers = processes
        ledger.intend(torch.tensor([7, processes.rank]), "ask")
        ledger.settle()
        return ledger.as_record()

    world = meeting.world
    records = meeting.run(work)
    distinct = world + 1
    assert (
        records
        == [{"by_stage": {"ask": 2 * world}, "total": 2 * world, "distinct": distinct, "uncertain": 0, "evaluation": 0}]
        * world
    )


def test_all_are_refused_together_and_nothing_is_sent(meeting, new_probe, images):
    probes = [new_probe() for _ in range(meeting.world)]

    def work(processes):
        boxed(probes[processes.rank], processes, budget=10 * meeting.world - 1).query(images)

    assert all(isinstance(result, QueryBudgetExceeded) for result in meeting.run(work))
    assert sum(probe.images for probe in probes) == 0


@pytest.mark.parametrize("responses", ["logits", "hard"])
@pytest.mark.parametrize("size", [1, 256, 257, 300, 515])
@pytest.mark.parametrize("batch_size", [43, 256])  # 256 rows are 6 batches of 43 in one process, 2 or 3 in each of more
def test_they_fill_the_same_bank_and_ask_once(meeting, new_probe, draw, size, responses, batch_size):
    alone = Bank()
    alone.fill(BlackBox(new_probe(), responses, 3), draw, size, stage="ask")
    probes = [new_probe() for _ in range(meeting.world)]

    def work(processes):
        settings = {"responses": responses, "budget": size, "batch_size": batch_size}
        bank, box = Bank(), boxed(probes[processes.rank], processes, **settings)
        bank.fill(box, draw, size, stage="ask")
        return bank, box.ledger.total

    for result in meeting.run(work):
        bank, total = result
        assert total == sum(probe.images for probe in probes) == size
        assert torch.equal(bank.images, alone.images) and torch.equal(bank.extra["index"], alone.extra["index"])
        torch.testing.assert_close(bank.response.values, alone.response.values)


def test_a_killed_run_of_several_resumes_in_step(meeting, new_probe, killed, draw, tmp_path):
    """One process dies before its answer is kept, the others after theirs were: they replay while it asks."""
    world, size = meeting.world, 515  # the last chunk has no row for a third process
    alone = Bank()
    alone.fill(BlackBox(new_probe(), "logits", 3), draw, size, stage="ask")
    first, second = ([new_probe() for _ in range(world)] for _ in range(2))
    first[world - 1].die_in_batch = 2

    def work(probes):
        def body(processes):
            box = boxed(probes[processes.rank], processes, tmp_path, budget=size + 256)
            bank = Bank()
            bank.keep(tmp_path / f"bank-{processes.rank}")
            try:
                bank.fill(box, draw, size, stage="ask")
                return bank, box.ledger.as_record(), box.journal.position
            except killed:
                meeting.barrier.abort()
                raise

        return body

    results = meeting.run(work(first))
    assert isinstance(results[world - 1], killed) and all(isinstance(result, BaseException) for result in results)
    meeting.barrier.reset()
    for bank, record, position in meeting.run(work(second)):
        torch.testing.assert_close(bank.response.values, alone.response.values)
        sent = sum(probe.images for probe in first + second)
        lost = len(first[world - 1].sent[1])
        assert record == {
            "by_stage": {"ask": sent},
            "total": size + lost,
            "distinct": size,
            "uncertain": lost,
            "evaluation": 0,
        }
        assert position == 3, "the position is the same in every process"
    third = [new_probe() for _ in range(world)]
    for result in meeting.run(work(third)):
        assert result[1]["total"] == size + lost and result[2] == 3
    assert not any(probe.images for probe in third)


def test_what_was_spent_before_is_carried_over_once(meeting, new_probe, images, tmp_path):
    def spend_then_keep(processes):
        box = boxed(new_probe(), processes)
        box.query(images, stage="before")
        box.keep(tmp_path, processes.rank)
        return box.ledger.as_record()

    def look(processes):
        return boxed(new_probe(), processes, tmp_path).ledger.as_record()

    total = 10 * meeting.world
    expected = {"by_stage": {"earlier runs": total}, "total": total, "distinct": 10, "uncertain": 0, "evaluation": 0}
    assert meeting.run(spend_then_keep) == meeting.run(look) == [expected] * meeting.world


def test_a_search_takes_a_single_process(meeting, new_probe, draw):
    def work(processes):
        Bank().fill(boxed(new_probe(), processes), draw, 5, stage="ask", label=lambda teacher, rows: rows)

    assert all(isinstance(result, NeedsNotMet) for result in meeting.run(work))


def test_several_processes_evaluate_and_probe_in_step(meeting, images):
    asked = [0] * meeting.world

    def work(processes):
        def teacher(batch):
            asked[processes.rank] += len(batch)
            return batch.flatten(1)[:, :3].clone()

        box = BlackBox(teacher, "logits", 3, budget=1)
        box.ledger.peers = processes
        box.probe((1, 4, 4))
        box.evaluate(images)
        return box.ledger.as_record()

    evaluated = 10 * meeting.world
    expected = {"by_stage": {"probe": 1}, "total": 1, "distinct": 1, "uncertain": 0, "evaluation": evaluated}
    assert meeting.run(work) == [expected] * meeting.world
    assert asked == [11] + [10] * (meeting.world - 1)


@pytest.mark.filterwarnings("ignore:.*cut, emptied or lost")  # warnings are no business of threads
def test_one_lost_ledger_of_several_comes_back_for_all(meeting, new_probe, images, tmp_path):
    def spend(processes):
        box = boxed(new_probe(), processes, tmp_path)
        box.query(images, stage="ask")
        box.release()
        return box.ledger.as_record()

    before = meeting.run(spend)
    (tmp_path / f"ledger-{meeting.world - 1}.jsonl").unlink()

    def look(processes):
        return boxed(new_probe(), processes, tmp_path).ledger.as_record()

    assert meeting.run(look) == before
    for path in tmp_path.iterdir():
        path.unlink()
    total = before[0]["total"]

    def go_on(processes):
        box = BlackBox(new_probe(), "logits", 3)
        box.ledger.peers = processes
        box.keep(tmp_path, processes.rank, at_least=total if processes.rank == 0 else 0)
        return box.ledger.as_record()

    lost = {"by_stage": {"lost from the ledger": total}, "total": total, "distinct": 0, "uncertain": total}
    assert meeting.run(go_on) == [{**lost, "evaluation": 0}] * meeting.world

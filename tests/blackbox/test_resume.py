"""Killed and resumed: nothing is asked twice that was kept, nothing that was asked goes uncounted."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from mekd_plugin.blackbox import BlackBox, Journal
from mekd_plugin.errors import CheckpointError, ReplayDiverged


def ask_all(box, batches):
    return [box.query(batch, stage="train").values for batch in batches]


@pytest.fixture
def batches(some_images):
    return [some_images(5, seed) for seed in range(6)]


@pytest.mark.parametrize("dies_in", range(1, 7))
def test_a_killed_run_ends_with_the_same_answers(new_probe, killed, batches, tmp_path, dies_in):
    expected = ask_all(BlackBox(new_probe(), "logits"), batches)
    first, second = new_probe(), new_probe()
    first.die_in_batch = dies_in
    box = BlackBox(first, "logits", budget=35)
    box.keep(tmp_path)
    with pytest.raises(killed):
        ask_all(box, batches)
    again = BlackBox(second, "logits", budget=35)
    again.keep(tmp_path)
    assert again.ledger.uncertain == 5
    resumed = ask_all(again, batches)
    assert all(torch.equal(one, other) for one, other in zip(expected, resumed, strict=True))
    assert again.ledger.total == first.images + second.images == 35
    assert again.ledger.distinct == 30 and again.ledger.uncertain == 5
    assert second.images == 5 * (7 - dies_in)


def test_of_a_large_question_only_the_batch_under_way_is_lost(new_probe, killed, some_images, tmp_path):
    images, probes = some_images(10), [new_probe(), new_probe()]
    probes[0].die_in_batch = 2
    for probe in probes:
        box = BlackBox(probe, "logits", budget=14, batch_size=4)
        box.keep(tmp_path)
        if probe is probes[0]:
            with pytest.raises(killed):
                box.query(images)
        else:
            assert torch.equal(
                box.query(images).values, BlackBox(new_probe(), "logits", batch_size=4).query(images).values
            )
    assert [len(batch) for batch in probes[1].sent] == [4, 2]
    assert box.ledger.as_record() == {
        "by_stage": {"query": 14},
        "total": 14,
        "distinct": 10,
        "uncertain": 4,
        "evaluation": 0,
    }


def test_goes_on_from_a_checkpoint(new_probe, killed, batches, tmp_path):
    first = new_probe()
    first.die_in_batch = 5
    box = BlackBox(first, "logits")
    box.keep(tmp_path)
    ask_all(box, batches[:2])
    checkpoint = box.journal.position
    box.journal.forget(checkpoint)
    with pytest.raises(killed):
        ask_all(box, batches[2:])
    second = new_probe()
    again = BlackBox(second, "logits")
    again.keep(tmp_path)
    again.journal.rewind(checkpoint)
    ask_all(again, batches[2:])
    assert checkpoint == 2 and second.images == 10 and again.ledger.total == 35


def test_killed_between_keeping_an_answer_and_settling_it(new_probe, killed, batches, tmp_path, monkeypatch):
    box = BlackBox(new_probe(), "logits")
    box.keep(tmp_path)

    def die():
        raise killed

    monkeypatch.setattr(box.ledger, "settle", die)
    with pytest.raises(killed):
        ask_all(box, batches)
    again = BlackBox(new_probe(), "logits")
    again.keep(tmp_path)
    assert again.ledger.as_record() == {
        "by_stage": {"train": 5},
        "total": 5,
        "distinct": 5,
        "uncertain": 0,
        "evaluation": 0,
    }
    ask_all(again, batches)
    assert again.ledger.total == 30
    last = BlackBox(new_probe(), "logits")
    last.keep(tmp_path)
    assert last.ledger.total == 30 and last.ledger.uncertain == 0


def test_killed_between_intending_and_asking(new_probe, killed, batches, tmp_path, monkeypatch):
    probe = new_probe()
    box = BlackBox(probe, "logits")
    box.keep(tmp_path)
    monkeypatch.setattr(Journal, "append", lambda *_: pytest.fail("nothing to keep"))
    monkeypatch.setattr("mekd_plugin.blackbox.exchange.as_tensor", lambda *_: (_ for _ in ()).throw(killed()))
    with pytest.raises(killed):
        box.query(batches[0])
    monkeypatch.undo()
    again = BlackBox(new_probe(), "logits")
    again.keep(tmp_path)
    assert again.ledger.total == again.ledger.uncertain == 5


def test_killed_again_and_again(new_probe, killed, batches, tmp_path):
    probes = []
    for life in range(4):
        probe = new_probe()
        probe.die_in_batch = 2 if life < 3 else None
        probes.append(probe)
        box = BlackBox(probe, "logits", budget=45)
        box.keep(tmp_path)
        if life < 3:
            with pytest.raises(killed):
                ask_all(box, batches)
        else:
            ask_all(box, batches)
    assert box.ledger.total == sum(probe.images for probe in probes) == 45
    assert box.ledger.uncertain == 15 and box.ledger.distinct == 30


def test_a_resumed_run_that_asks_otherwise_is_stopped_before_it_pays(new_probe, killed, batches, tmp_path):
    box = BlackBox(new_probe(), "logits")
    box.keep(tmp_path)
    ask_all(box, batches[:3])
    probe = new_probe()
    again = BlackBox(probe, "logits")
    again.keep(tmp_path)
    again.query(batches[0], stage="train")
    with pytest.raises(ReplayDiverged, match="diverged at question 1"):
        again.query(batches[2], stage="train")
    assert probe.images == 0 and again.ledger.total == 15


def test_replayed_answers_declare_the_classes(new_probe, batches, tmp_path):
    box = BlackBox(new_probe(), "hard")
    box.keep(tmp_path)
    first = box.query(batches[0])
    again = BlackBox(new_probe(), "hard")
    again.keep(tmp_path)
    response = again.query(batches[0])
    assert again.num_classes == 3 and torch.equal(response.values, first.values) and response.kind == "hard"


def test_kept_in_memory_only_a_run_begins_anew(probe, batches):
    box = BlackBox(probe, "logits")
    ask_all(box, batches)
    box.keep(None)
    ask_all(box, batches)
    assert box.journal is None and box.ledger.by_stage == {"earlier runs": 30, "train": 30}


def test_released_it_no_longer_writes(probe, batches, tmp_path):
    box = BlackBox(probe, "logits")
    box.keep(tmp_path)
    ask_all(box, batches[:1])
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    box.release()
    ask_all(box, batches)
    assert box.journal is None and box.ledger.total == 35
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == sizes


@pytest.mark.parametrize("dies_in", [1, 3])
def test_a_process_that_really_is_killed(tmp_path, dies_in):
    """By a signal that no handler sees, in the teacher, while its answer is awaited."""
    script = textwrap.dedent(
        """
        import os, signal, sys
        import torch
        from mekd_plugin.blackbox import BlackBox
        directory, dies_in = sys.argv[1], int(sys.argv[2])
        asked = 0
        def teacher(images):
            global asked
            asked += 1
            if asked == dies_in:
                os.kill(os.getpid(), signal.SIGKILL)
            return images.flatten(1)[:, :3].clone()
        box = BlackBox(teacher, "logits", 3, budget=50)
        box.keep(directory)
        batches = torch.linspace(-1, 1, 40 * 16).view(8, 5, 1, 4, 4)
        values = torch.cat([box.query(batch, stage="train").values for batch in batches])
        assert torch.equal(values, batches.flatten(0, 1).flatten(1)[:, :3])
        print(asked, box.ledger.total, box.ledger.distinct, box.ledger.uncertain)
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run([*command, str(dies_in)]).returncode == -9
    finished = subprocess.run([*command, "0"], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == [str(8 - dies_in + 1), "45", "40", "5"]


_HOLDER = """
    import sys, torch
    from mekd_plugin.blackbox import BlackBox
    box = BlackBox(lambda images: torch.zeros(len(images), 3), "logits", 3, budget=10, identity="zeros")
    box.keep(sys.argv[1])
    box.query(torch.zeros(4, 1, 4, 4))
    print("kept", flush=True)
    sys.stdin.read()
"""


def test_of_two_processes_only_one_keeps_what_it_asks(tmp_path):
    def box():
        return BlackBox(lambda images: torch.zeros(len(images), 3), "logits", 3, budget=10, identity="zeros")

    command = [sys.executable, "-c", textwrap.dedent(_HOLDER), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"kept\n"
        with pytest.raises(CheckpointError, match=rf"another process keeps what it asks in {tmp_path}: wait"):
            box().keep(tmp_path)
        holder.kill()
    after = box()
    after.keep(tmp_path)
    assert after.ledger.total == 4
    after.query(torch.zeros(4, 1, 4, 4))
    assert after.ledger.total == 4  # the answer that was kept


def test_a_later_black_box_of_the_process_takes_over(new_probe, batches, tmp_path):
    first, second = (BlackBox(new_probe(), "logits") for _ in range(2))
    first.keep(tmp_path)
    first.query(batches[0])
    second.keep(tmp_path)
    assert first.journal is None and second.ledger.total == 5
    first.query(batches[1])  # counted by the first alone, and in memory
    assert (first.ledger.total, second.ledger.total) == (10, 5)

"""A ledger's file that was cut, emptied or lost is not believed: journal, checkpoints and metrics know better."""

from __future__ import annotations

import warnings

import pytest
import torch

from mekd_plugin.blackbox import BlackBox
from mekd_plugin.blackbox.ledger_file import LedgerFile
from mekd_plugin.errors import QueryBudgetExceeded, Refused

DAMAGES = {
    "emptied": lambda path: path.write_bytes(b""),
    "lost": lambda path: path.unlink(),
    "cut to its first line": lambda path: path.write_bytes(path.read_bytes().splitlines(keepends=True)[0]),
    "halved": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut in its last question": lambda path: path.write_bytes(path.read_bytes().rsplit(b'{"ask"', 1)[0]),
}


def life(probe, directory, images, *, forget=0, budget=None, at_least=0):
    """Ask for two stages of three batches each, and for an evaluation; the ledger at the end."""
    box = BlackBox(probe, "logits", budget=budget)
    box.keep(directory, at_least=at_least)
    ask(box, images)
    if forget:
        box.journal.forget(forget)
    box.release()
    return box.ledger.as_record()


def ask(box, images):
    for index in range(3):
        box.query(images[index * 5 : index * 5 + 5], stage="first")
    for index in range(3, 6):
        box.query(images[index * 5 : index * 5 + 5], stage="second")
    box.evaluate(images[:7])


@pytest.fixture
def thirty(some_images):
    return some_images(30)


@pytest.mark.parametrize("forget", [0, 4, 7], ids=["no checkpoint", "a checkpoint half-way", "a checkpoint at the end"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_journal_brings_it_back(new_probe, thirty, tmp_path, damage, forget):
    whole = life(new_probe(), tmp_path, thirty, forget=forget)
    DAMAGES[damage](tmp_path / "ledger-0.jsonl")
    again = BlackBox(new_probe(), "logits", budget=31)
    with pytest.warns(UserWarning, match="was cut, emptied or lost"):
        again.keep(tmp_path)
    found = again.ledger.as_record()
    for name in ("by_stage", "total", "uncertain", "evaluation"):
        assert found[name] == whole[name], name
    assert list(found["by_stage"]) == list(whole["by_stage"])
    assert found["distinct"] == 30 if not forget else found["distinct"] <= 30
    again.journal.rewind(again.journal.end)
    with pytest.raises(QueryBudgetExceeded):
        again.query(thirty[:2], stage="third")
    again.release()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        last = BlackBox(new_probe(), "logits")
        last.keep(tmp_path)
    assert last.ledger.as_record() == found, "it is written down again, once"


def test_a_replay_after_the_loss_asks_nothing_twice(new_probe, thirty, tmp_path):
    life(new_probe(), tmp_path, thirty)
    (tmp_path / "ledger-0.jsonl").unlink()
    probe = new_probe()
    with pytest.warns(UserWarning, match="0 images and other files of the run of 37"):
        record = life(probe, tmp_path, thirty, budget=30)
    assert probe.images == 0 and record["total"] == 30 and record["evaluation"] == 7


@pytest.mark.parametrize("written", [1, 2])
def test_killed_while_it_is_brought_back(new_probe, thirty, tmp_path, monkeypatch, written):
    whole = life(new_probe(), tmp_path, thirty, forget=4)
    (tmp_path / "ledger-0.jsonl").unlink()
    write, calls = LedgerFile.keep, []

    def die_after(ledger, *given):
        if len(calls) == written:
            raise KeyboardInterrupt
        calls.append(None)
        write(ledger, *given)

    monkeypatch.setattr(LedgerFile, "keep", die_after)
    with pytest.raises(KeyboardInterrupt):
        BlackBox(new_probe(), "logits").keep(tmp_path)
    monkeypatch.undo()
    again = BlackBox(new_probe(), "logits")
    with pytest.warns(UserWarning, match="was cut, emptied or lost"):
        again.keep(tmp_path)
    assert again.ledger.by_stage == whole["by_stage"] and again.ledger.evaluation == 7


def test_what_checkpoints_and_metrics_know_counts_too(new_probe, thirty, tmp_path):
    life(new_probe(), tmp_path, thirty)
    for path in tmp_path.iterdir():
        path.unlink()
    again = BlackBox(new_probe(), "logits", budget=33)
    with pytest.warns(UserWarning, match="of 0 images and other files of the run of 30.*and as uncertain"):
        again.keep(tmp_path, at_least=30)
    expected = {"lost from the ledger": 30}
    assert again.ledger.by_stage == expected and again.ledger.uncertain == 30 and again.ledger.available("first") == 3
    with pytest.raises(QueryBudgetExceeded):
        again.query(thirty[:4])
    again.release()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        last = BlackBox(new_probe(), "logits")
        last.keep(tmp_path, at_least=30)
    assert last.ledger.by_stage == expected


def test_what_is_known_by_all_files_is_no_loss(new_probe, thirty, tmp_path):
    life(new_probe(), tmp_path, thirty, forget=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = BlackBox(new_probe(), "logits")
        again.keep(tmp_path, at_least=30)
    assert again.ledger.by_stage == {"first": 15, "second": 15}


def test_refused_batches_are_no_loss(thirty, tmp_path):
    calls = []

    def teacher(images):
        calls.append(len(images))
        if len(calls) % 2:
            raise Refused("busy")
        return torch.zeros(len(images), 3)

    box = BlackBox(teacher, "logits", 3, identity="t")
    box.keep(tmp_path)
    for start in (0, 5):
        with pytest.raises(Refused):
            box.query(thirty[start : start + 5])
        box.query(thirty[start : start + 5])
    box.release()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = BlackBox(teacher, "logits", 3, identity="t")
        again.keep(tmp_path, at_least=10)
    assert again.ledger.by_stage == {"query": 10} and again.ledger.uncertain == 0


def test_what_was_spent_elsewhere_does_not_make_up_for_it(new_probe, thirty, tmp_path):
    box = BlackBox(new_probe(), "logits", budget=40)
    box.query(thirty[:10], stage="elsewhere")
    with pytest.warns(UserWarning, match="of 0 images and other files of the run of 30"):
        box.keep(tmp_path, at_least=30)
    assert box.ledger.by_stage == {"earlier runs": 10, "lost from the ledger": 30} and box.ledger.remaining == 0

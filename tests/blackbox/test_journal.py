from __future__ import annotations

import os

import pytest
import torch

from mekd_plugin.blackbox import Journal
from mekd_plugin.errors import CheckpointError, InputError, ReplayDiverged
from mekd_plugin.responses import Response


def prints(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def answers(number: int) -> Response:
    return Response(torch.tensor([[number, -1.5], [0.25, number]]), "logits", 2)


@pytest.fixture
def path(tmp_path):
    """A journal of the questions 0, 1 and 2."""
    journal = Journal(tmp_path / "journal-0.bin")
    for number in range(3):
        assert journal.position == number
        journal.append(answers(number), prints(number, number), f"stage {number}", serial=number + 1)
    journal.close()
    return tmp_path / "journal-0.bin"


def replayed(journal: Journal, number: int) -> Response | None:
    return journal.replay(prints(number, number), f"stage {number}", "logits")


def test_a_later_life_gets_the_same_answers(path):
    journal = Journal(path)
    assert (journal.position, journal.end, journal.images_ahead, journal.last_serial) == (0, 3, 6, 3)
    for number in range(3):
        response = replayed(journal, number)
        assert torch.equal(response.values, answers(number).values) and response.num_classes == 2
    assert replayed(journal, 3) is None and journal.images_ahead == 0


def test_hard_answers_are_kept_too(tmp_path):
    journal = Journal(tmp_path / "journal")
    labels = torch.tensor([4, 0])
    journal.append(Response(labels, "hard", 5), prints(1, 2), "ask", 1)
    journal.rewind(0)
    response = journal.replay(prints(1, 2), "ask", "hard")
    assert torch.equal(response.values, labels) and response.values.dtype == torch.int64 and response.num_classes == 5


def test_rewinds_to_where_a_checkpoint_stood(path):
    journal = Journal(path)
    journal.rewind(2)
    assert journal.images_ahead == 2
    assert torch.equal(replayed(journal, 2).values, answers(2).values)


@pytest.mark.parametrize("position", [-1, 4])
def test_a_checkpoint_of_another_run_is_an_error(path, position):
    with pytest.raises(ReplayDiverged, match=f"position {position} of .* ends at 3"):
        Journal(path).rewind(position)


@pytest.mark.parametrize(
    ("fingerprints", "stage", "kind", "message"),
    [
        (
            prints(1, 2),
            "stage 1",
            "logits",
            r"question 1: before the interruption it asked \('stage 1'\) about 2 other",
        ),
        (prints(1), "stage 1", "logits", "2 other images"),
        (prints(1, 1), "stage 2", "logits", "now 'stage 2, logits'"),
        (prints(1, 1), "stage 1", "probabilities", "about logits responses"),
    ],
)
def test_another_question_is_an_error(path, fingerprints, stage, kind, message):
    journal = Journal(path)
    journal.rewind(1)
    with pytest.raises(ReplayDiverged, match=message):
        journal.replay(fingerprints, stage, kind)
    assert journal.position == 1


def test_forgets_what_a_checkpoint_holds(path):
    journal = Journal(path)
    journal.rewind(3)
    size = path.stat().st_size
    journal.forget(2)
    assert path.stat().st_size < size and not [file for file in path.parent.iterdir() if file != path]
    journal.append(answers(3), prints(3, 3), "stage 3", serial=4)
    again = Journal(path)
    assert (again.position, again.end, again.identity) == (2, 4, journal.identity)
    for number in (2, 3):
        assert torch.equal(replayed(again, number).values, answers(number).values)
    again.forget(1)  # long forgotten
    again.forget(4)
    assert Journal(path).position == 4


def test_what_was_forgotten_cannot_be_replayed(path):
    journal = Journal(path)
    journal.forget(2)
    journal.rewind(1)
    with pytest.raises(ReplayDiverged, match=r"question 1 \('stage 1'\) was asked before .* begins at question 2"):
        replayed(journal, 1)


def test_the_future_cannot_be_forgotten(path):
    with pytest.raises(ReplayDiverged, match="cannot forget up to position 4"):
        Journal(path).forget(4)


def test_a_failed_rewrite_leaves_the_journal_as_it_was(path, monkeypatch):
    journal = Journal(path)
    journal.rewind(3)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(InputError, match="No space left"):
        patched.setattr("os.fsync", full)
        journal.forget(2)
    assert not [file for file in path.parent.iterdir() if file != path]
    journal.append(answers(3), prints(3, 3), "stage 3", serial=4)
    assert Journal(path).end == 4


def test_every_torn_tail_is_cut(path):
    content = path.read_bytes()
    whole = [len(content)]
    journal = Journal(path)
    for _ in range(3):
        entry = journal._entries[len(whole) - 1]
        whole.append(entry.offset + entry.length)
    for cut in range(whole[2], len(content)):
        path.write_bytes(content[:cut])
        journal = Journal(path)
        assert journal.end == 2
        journal.rewind(2)
        journal.append(answers(7), prints(2, 2), "stage 2", serial=9)
        journal.close()
        again = Journal(path)
        again.rewind(2)
        assert torch.equal(replayed(again, 2).values, answers(7).values)
        again.close()


def test_a_torn_head_is_an_empty_journal(path):
    path.write_bytes(path.read_bytes()[:7])
    assert Journal(path).end == 0


def test_a_last_record_of_the_right_length_and_wrong_content_is_cut(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert Journal(path).end == 2


@pytest.mark.parametrize(
    ("place", "words"),
    [(30, "damaged in its head"), (125, "damaged at question 0"), (200, "damaged at question 0")],
    ids=["the file's head", "a record's head", "an answer"],
)
def test_damage_elsewhere_is_an_error(path, place, words):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        Journal(path)


def test_every_flipped_bit_before_the_last_record_is_noticed(path):
    whole = path.read_bytes()
    last = len(whole) - len(whole[148:417])
    for place in range(0, last, 7):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            Journal(path)


def test_answers_of_another_teacher_are_refused(tmp_path):
    Journal(tmp_path / "journal", "this one").close()
    Journal(tmp_path / "journal", "this one").close()
    with pytest.raises(CheckpointError, match="answers of the teacher this one, and that one is asked now"):
        Journal(tmp_path / "journal", "that one")


def test_something_else_is_no_journal(tmp_path):
    (tmp_path / "journal").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="not a journal that this version can read"):
        Journal(tmp_path / "journal")


def test_an_evaluations_answers_serve_no_query(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.append(answers(1), prints(1, 1), "test", 1, evaluation=True)
    journal.rewind(0)
    with pytest.raises(ReplayDiverged, match="about an evaluation, now 'what counts against the budget'"):
        journal.replay(prints(1, 1), "test", "logits")
    assert len(journal.replay(prints(1, 1), "test", "logits", evaluation=True)) == 2


def test_what_is_given_up_makes_room_and_goes_on_counting(path):
    journal = Journal(path)
    journal.strict = False
    assert replayed(journal, 0) is not None
    with pytest.warns(UserWarning, match="4 answers that were paid for are given up"):
        assert replayed(journal, 5) is None
    assert (journal.end, journal.images_ahead, journal.last_serial) == (1, 0, 3)
    journal.append(answers(5), prints(5, 5), "stage 5", serial=4)
    again = Journal(path)
    assert torch.equal(replayed(again, 0).values, answers(0).values)
    assert torch.equal(replayed(again, 5).values, answers(5).values)
    again.forget(2)
    counts = {question.stage: question.images for question in Journal(path).forgotten.questions}
    assert counts == {f"stage {number}": 2 for number in (0, 1, 2, 5)} and again.last_serial == 4


def test_only_the_same_questions_count_as_kept_where_others_may_come(path):
    journal = Journal(path)
    other = [prints(0, 0), prints(7, 7), prints(2, 2)]
    assert journal.kept(other, "stage 0", "logits") == 6
    journal.strict = False
    assert journal.kept(other, "stage 0", "logits") == 2
    assert journal.kept(other[1:], "stage 0", "logits") == 0


def test_what_came_early_counts_as_kept_for_its_own_question_alone(path):
    journal = Journal(path)
    for number in (4, 5, 5):
        journal.append(answers(number), prints(number, number), "later", number + 5, early=True)
    for strict in (True, False):
        journal.strict = strict
        journal.rewind(3)
        asked = [prints(3, 3), prints(5, 5), prints(4, 4), prints(4, 4), prints(5, 5), prints(5, 5)]
        assert journal.kept(asked, "later", "logits") == 6
        assert journal.kept(asked[:2], "later", "logits") == 2
        assert journal.kept([prints(3, 4), prints(4, 3)], "later", "logits") == 0  # across two questions
        assert journal.kept([], "later", "logits") == 0
        assert journal.kept(asked, "sooner", "logits") == journal.kept(asked, "later", "hard") == 0
        assert journal.kept(asked, "later", "logits", evaluation=True) == 0
        journal.rewind(2)
        assert journal.kept([prints(2, 2), prints(4, 4)], "stage 2", "logits") == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interruption_while_the_disk_is_waited_for_leaves_the_journal_as_it_was(path, monkeypatch, when):
    journal, sync = Journal(path), os.fsync
    journal.rewind(3)

    def interrupted(descriptor):
        if when == "after":
            sync(descriptor)
        raise KeyboardInterrupt

    monkeypatch.setattr("mekd_plugin.files.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append(answers(3), prints(3, 3), "stage 3", 4)
    monkeypatch.undo()
    for number in (3, 4):
        journal.append(answers(number), prints(number, number), f"stage {number}", number + 1)
    for life in (journal, Journal(path)):
        life.rewind(3)
        for number in (3, 4):
            assert torch.equal(replayed(life, number).values, answers(number).values)
        assert life.end == 5


def test_an_interruption_after_the_file_has_the_record_is_made_good(path, monkeypatch):
    journal = Journal(path)
    journal.rewind(3)
    append = journal._file.append

    def interrupted(record, **how):
        append(record, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(journal._file, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append(answers(3), prints(3, 3), "stage 3", 4)
    monkeypatch.undo()
    journal.append(answers(3), prints(3, 3), "stage 3", 5)
    journal.close()
    again = Journal(path)
    again.rewind(3)
    assert again.end == 4 and torch.equal(replayed(again, 3).values, answers(3).values)

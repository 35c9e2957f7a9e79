from __future__ import annotations

import json
import multiprocessing
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekd_plugin.blackbox import BlackBox, Ledger
from mekd_plugin.errors import CheckpointError, InputError, QueryBudgetExceeded


def prints(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def spend(ledger: Ledger, stage: str, *numbers: int, settle: bool = True) -> None:
    ledger.intend(prints(*numbers), stage)
    if settle:
        ledger.settle()


def test_counts_by_stage_in_the_order_of_asking():
    ledger = Ledger()
    spend(ledger, "second name", 1, 2)
    spend(ledger, "a", 2)
    spend(ledger, "second name", 3)
    assert list(ledger.by_stage.items()) == [("second name", 3), ("a", 1)]
    assert ledger.as_record() == {
        "by_stage": ledger.by_stage,
        "total": 4,
        "distinct": 3,
        "uncertain": 0,
        "evaluation": 0,
    }
    assert ledger.remaining is None and ledger.available("a") is None


def test_by_stage_is_a_copy():
    ledger = Ledger()
    ledger.by_stage["ask"] = 5
    assert ledger.total == 0


def test_what_is_not_settled_is_uncertain():
    ledger = Ledger()
    spend(ledger, "ask", 1, 2, settle=False)
    assert ledger.uncertain == 2
    spend(ledger, "ask", 3)
    assert (ledger.total, ledger.uncertain) == (3, 2)
    ledger.settle()  # nothing awaits an answer
    assert ledger.uncertain == 2


def test_available_is_what_the_stages_before_left():
    ledger = Ledger(10)
    spend(ledger, "first", 1, 2, 3)
    assert ledger.available("second") == 7
    spend(ledger, "second", 4, 5)
    spend(ledger, "third", 6)
    assert [ledger.available(stage) for stage in ("first", "second", "third", "new")] == [10, 7, 5, 4]


def test_says_itself_in_a_line():
    ledger = Ledger(5000)
    assert str(ledger) == "0 of 5,000 images sent, 0 distinct (nothing yet)"
    spend(ledger, "ask", *range(1234), settle=False)
    assert str(ledger) == "1,234 of 5,000 images sent, 1,234 distinct, 1,234 uncertain (ask 1,234)"


@settings(max_examples=60, deadline=None)
@given(
    budget=st.one_of(st.none(), st.integers(0, 60)),
    questions=st.lists(
        st.tuples(
            st.sampled_from(["train G", "ask", "align"]),
            st.lists(st.integers(-3, 3), min_size=1, max_size=12),
            st.sampled_from(["kept", "lost", "killed"]),
        ),
        max_size=12,
    ),
)
def test_the_ledger_is_exact_and_the_budget_never_passed(tmp_path_factory, budget, questions):
    """Against plain lists, over any questions, lost answers and killed processes."""
    directory = tmp_path_factory.mktemp("run")
    ledger = Ledger(budget)
    ledger.attach(directory)
    sent: list[tuple[str, int]] = []
    lost = 0
    for stage, numbers, fate in questions:
        if budget is not None and len(sent) + len(numbers) > budget:
            with pytest.raises(QueryBudgetExceeded):
                ledger.intend(prints(*numbers), stage)
            continue
        spend(ledger, stage, *numbers, settle=fate == "kept")
        sent += [(stage, number) for number in numbers]
        lost += 0 if fate == "kept" else len(numbers)
        if fate == "killed":
            ledger = Ledger(budget)
            ledger.attach(directory)
        assert ledger.total == len(sent) and ledger.uncertain == lost
    assert ledger.distinct == len({number for _, number in sent})
    assert ledger.by_stage == {stage: [name for name, _ in sent].count(stage) for stage in dict(sent)}
    assert list(ledger.by_stage) == list(dict(sent))
    assert budget is None or ledger.total <= budget
    ledger.detach()


def test_a_later_life_knows_what_was_spent(tmp_path):
    ledger = Ledger(10)
    ledger.attach(tmp_path)
    spend(ledger, "ask", 1, 2, 3)
    spend(ledger, "ask", 4, settle=False)
    again = Ledger(10)
    again.attach(tmp_path)
    assert again.as_record() == {"by_stage": {"ask": 4}, "total": 4, "distinct": 4, "uncertain": 1, "evaluation": 0}
    with pytest.raises(QueryBudgetExceeded, match="4 are spent"):
        spend(again, "ask", *range(7))
    spend(again, "ask", *range(6))


def test_the_intention_is_on_the_disk_before_it_is_counted(tmp_path):
    ledger = Ledger()
    ledger.attach(tmp_path)
    ledger.intend(prints(7, 8), "ask")
    last = json.loads((tmp_path / "ledger-0.jsonl").read_text().splitlines()[-1])
    assert last["ask"] == 2 and last["stage"] == "ask"


def test_every_torn_tail_is_cut_and_never_under_counts(tmp_path):
    path = tmp_path / "ledger-0.jsonl"
    ledger = Ledger()
    ledger.attach(tmp_path)
    spend(ledger, "ask", 1, 2)
    whole_so_far = path.stat().st_size
    spend(ledger, "more", 3, 4, 5)
    content = path.read_bytes()
    intended = content.index(b"\n", whole_so_far) + 1
    for cut in range(whole_so_far, len(content) + 1):
        path.write_bytes(content[:cut])
        again = Ledger()
        again.attach(tmp_path)
        asked = 3 if cut >= intended else 0
        assert again.total == 2 + asked
        assert again.uncertain == (0 if cut == len(content) else asked)
        spend(again, "ask", 6)
        again.detach()
        last = Ledger()
        last.attach(tmp_path)
        assert last.total == 3 + asked, "what was appended after a torn tail is read again"
        last.detach()


def test_a_torn_first_line_is_an_empty_ledger(tmp_path):
    (tmp_path / "ledger-0.jsonl").write_text('{"mekd le')
    ledger = Ledger()
    ledger.attach(tmp_path)
    spend(ledger, "ask", 1)
    again = Ledger()
    again.attach(tmp_path)
    assert again.total == 1


def test_damage_elsewhere_is_an_error(tmp_path):
    ledger = Ledger()
    ledger.attach(tmp_path)
    spend(ledger, "ask", 1)
    spend(ledger, "ask", 2)
    path = tmp_path / "ledger-0.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for broken in ("nonsense\n", '{"ask": 1}\n', "3\n", '{"kept": 99}\n'):
        path.write_text("".join([lines[0], broken, *lines[2:]]))
        with pytest.raises(CheckpointError, match="damaged in line 2"):
            Ledger().attach(tmp_path)


def test_a_ledger_of_another_version_is_not_read(tmp_path):
    (tmp_path / "ledger-0.jsonl").write_text('{"mekd ledger": 1}\n')
    with pytest.raises(CheckpointError, match="not a ledger that this version can read"):
        Ledger().attach(tmp_path)


def test_a_strange_name_is_not_read(tmp_path):
    (tmp_path / "ledger-copy.jsonl").touch()
    with pytest.raises(CheckpointError, match="expected ledger-<rank>.jsonl"):
        Ledger().attach(tmp_path)


def test_the_files_of_all_ranks_are_read(tmp_path):
    for rank in (0, 1, 10):
        ledger = Ledger()
        ledger.attach(tmp_path, rank)
        spend(ledger, f"stage of {rank}", rank, 100)
        ledger.detach()
    again = Ledger()
    again.attach(tmp_path)
    assert list(again.by_stage) == ["stage of 0", "stage of 1", "stage of 10"]
    assert again.total == 6 and again.distinct == 4


def test_a_torn_tail_of_another_rank_counts_as_far_as_it_is_whole(tmp_path):
    other = Ledger()
    other.attach(tmp_path, 1)
    spend(other, "ask", 1)
    with (tmp_path / "ledger-1.jsonl").open("a") as file:
        file.write('{"ask": 3, "ser')
    ledger = Ledger()
    ledger.attach(tmp_path, 0)
    assert ledger.total == 1


def test_what_was_spent_before_the_run_is_carried_over(tmp_path):
    ledger = Ledger(10)
    spend(ledger, "trial", 1, 2)
    spend(ledger, "trial", 3, settle=False)
    ledger.attach(tmp_path)
    spend(ledger, "ask", 3, 4)
    expected = {"by_stage": {"earlier runs": 3, "ask": 2}, "total": 5, "distinct": 4, "uncertain": 1, "evaluation": 0}
    assert ledger.as_record() == expected and ledger.available("ask") == 7
    again = Ledger(10)
    again.attach(tmp_path)
    assert again.as_record() == expected and again.available("ask") == 7


def test_one_ledger_through_several_runs(tmp_path):
    ledger = Ledger(10)
    ledger.attach(tmp_path / "first")
    spend(ledger, "ask", 1, 2)
    ledger.attach(tmp_path / "second")
    spend(ledger, "ask", 2, 3)
    assert ledger.by_stage == {"earlier runs": 2, "ask": 2} and ledger.distinct == 3
    ledger.detach()
    ledger.attach(tmp_path / "second")  # resumed with the very same object: nothing counts twice
    assert ledger.by_stage == {"earlier runs": 2, "ask": 2}
    ledger.attach(None)
    spend(ledger, "ask", 9)
    assert ledger.by_stage == {"earlier runs": 4, "ask": 1} and ledger.available("ask") == 6


def test_what_was_spent_elsewhere_meanwhile_is_no_longer_available(tmp_path):
    ledger = Ledger(10)
    ledger.attach(tmp_path)
    spend(ledger, "ask", 1, 2)
    ledger.detach()
    spend(ledger, "trial", 3, 4, 5)
    ledger.attach(tmp_path)
    assert ledger.by_stage == {"ask": 2, "earlier runs": 3} and ledger.available("ask") == 7


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        Ledger().attach(tmp_path / "file")


def test_a_full_disk_stops_before_anything_is_asked(tmp_path, probe, images, monkeypatch):
    box = BlackBox(probe, "logits")
    box.keep(tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    size = (tmp_path / "ledger-0.jsonl").stat().st_size
    with monkeypatch.context() as patched, pytest.raises(InputError, match="No space left on device; free some space"):
        patched.setattr("os.fsync", full)
        box.query(images)
    assert probe.images == box.ledger.total == 0
    assert (tmp_path / "ledger-0.jsonl").stat().st_size == size, "no part of the line stays behind"
    box.query(images)
    assert box.ledger.total == 10


def test_shows_itself_in_that_line():
    assert repr(Ledger(5000)) == str(Ledger(5000)) == "0 of 5,000 images sent, 0 distinct (nothing yet)"


def test_an_evaluation_stands_beside_the_rest(tmp_path):
    ledger = Ledger(3)
    ledger.attach(tmp_path / "first")
    spend(ledger, "ask", 1, 2)
    ledger.intend(prints(*range(50)), "test", evaluation=True)
    ledger.settle()
    expected = {"by_stage": {"ask": 2}, "total": 2, "distinct": 2, "uncertain": 0, "evaluation": 50}
    assert ledger.as_record() == expected and ledger.remaining == 1 and ledger.available("more") == 1
    again = Ledger(3)
    again.attach(tmp_path / "first")
    assert again.as_record() == expected
    again.attach(tmp_path / "second")
    last = Ledger(3)
    last.attach(tmp_path / "second")
    assert (last.by_stage, last.evaluation) == ({"earlier runs": 2}, 50)
    last.attach(None)
    assert (last.by_stage, last.evaluation) == ({"earlier runs": 2}, 50)


def test_what_was_refused_is_taken_back(tmp_path):
    ledger = Ledger(3)
    ledger.attach(tmp_path)
    spend(ledger, "ask", 1, 2)
    ledger.intend(prints(3), "more")
    assert (ledger.total, ledger.distinct, ledger.uncertain) == (3, 3, 1)
    ledger.take_back()
    expected = {"by_stage": {"ask": 2}, "total": 2, "distinct": 2, "uncertain": 0, "evaluation": 0}
    assert ledger.as_record() == expected
    ledger.take_back()  # nothing awaits an answer
    ledger.intend(prints(7, 8), "test", evaluation=True)
    ledger.take_back()
    assert ledger.as_record() == expected
    again = Ledger(3)
    again.attach(tmp_path)
    assert again.as_record() == expected
    spend(again, "more", 3)
    assert again.remaining == 0 and again.distinct == 3


def test_a_copy_in_another_process_does_not_count():
    ledger = Ledger(10)
    spend(ledger, "ask", 1, 2)
    copied = pickle.loads(pickle.dumps(ledger))
    assert copied.as_record() == ledger.as_record()
    with multiprocessing.get_context("spawn").Pool(1) as pool, pytest.raises(InputError, match="made its black box"):
        pool.apply(copied.intend, (prints(3), "ask"))


def test_a_changed_number_of_images_is_noticed(tmp_path):
    ledger = Ledger(budget=10)
    ledger.attach(tmp_path)
    spend(ledger, "ask", 1, 2, 3, 4, 5)
    spend(ledger, "ask", 6)
    ledger.detach()
    path = tmp_path / "ledger-0.jsonl"
    path.write_text(path.read_text().replace('"ask": 5', '"ask": 1'))
    with pytest.raises(CheckpointError, match=r"damaged in line 2 \(1 images with 5 fingerprints\)"):
        Ledger(budget=10).attach(tmp_path)


def test_lines_of_two_processes_are_said_to_be_that(tmp_path):
    one, other = Ledger(), Ledger()
    one.attach(tmp_path)
    other.attach(tmp_path)
    for ledger in (one, other):
        ledger.intend(prints(1, 2), "ask")
    for ledger in (one, other):
        ledger.settle()
    spend(one, "ask", 3)
    with pytest.raises(CheckpointError, match="question 1 is not open: did two processes write here at a time?"):
        Ledger().attach(tmp_path)

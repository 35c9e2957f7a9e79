"""kill -9 at random instants and at every kind of place: resumed, runs end with exact ledgers and their own student."""

import pytest
from kills import Counter, Instant, kill_runs, live, undisturbed

SLOW = pytest.mark.slow


@SLOW
def test_ten_random_kills_are_survived(tmp_path):
    cases = ["kd", "mekd", "active_mixup", "dfms_hl", "copycat", "at every step"]
    tally = kill_runs(cases, 10, seed=4, folder=tmp_path, most=2)  # five runs or more: all of them
    assert not tally.complaints
    assert tally.survived == tally.kills == 10 and str(tally).startswith("10 of 10 kills survived")
    assert {run.case for run in tally.runs} == set(cases)


@SLOW
def test_killed_at_every_kind_of_place_a_run_ends_with_the_same_weights(tmp_path):
    case = "mekd, asking in stage 1"
    whole = undisturbed(case, tmp_path / "whole")
    assert not whole.complaints and whole.ledger["uncertain"] == 0
    counter, directory = Counter(), tmp_path / "run"
    places = [("asking", 480), ("answered", 240), ("asking", 480), ("step", 15), ("step", 25)]
    for kind, at in places:
        assert live(case, directory, counter, Instant(kind, at)).ledger is None, (kind, at)
    ledger = live(case, directory, counter).ledger
    assert counter.received == whole.counter.received + ledger["uncertain"] > whole.counter.received
    assert counter.received <= ledger["total"] <= counter.received + ledger["uncertain"]
    for name in ("student.safetensors", "generator.safetensors"):
        assert (directory / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    before = counter.received
    assert live(case, directory, counter).ledger == ledger
    assert counter.received == before  # a finished run asks nothing


@SLOW
def test_a_ledger_that_is_not_exact_is_a_complaint(tmp_path):
    class Deaf(Counter):
        """Counts two images fewer than it answers, as if they had never arrived."""

        def answer(self, images):
            scores = super().answer(images)
            self.received -= 2
            return scores

    counter = Deaf()
    run = undisturbed("kd", tmp_path / "run", counter)
    assert run.complaints == ["290 images were received, the ledger has 300, 0 uncertain"]

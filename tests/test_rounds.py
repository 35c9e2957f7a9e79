"""Rounds: what each gets of budget and steps, and that a stage asks about what was chosen, once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError
from mekd_plugin.rounds import candidates, fewest_in_rounds, rounds_of, shares_of
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images

SHARES = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=6)


@given(SHARES, st.integers(0, 400), st.floats(0.0, 0.9))
def test_every_round_has_its_share_and_the_last_takes_the_recipe(shares, more, student_share):
    size = fewest_in_rounds(shares) + more
    rounds = rounds_of(size, shares, student_share=student_share)
    assert [round_.number for round_ in rounds] == list(range(1, len(shares) + 1))
    assert rounds[-1].until == size and [round_.last for round_ in rounds] == [False] * (len(shares) - 1) + [True]
    since = 0
    for round_, share in zip(rounds, shares, strict=True):
        assert round_.until - since >= 2
        assert abs(round_.until - since - size * share / sum(shares)) <= 1
        since = round_.until
    assert rounds[-1].fraction == 1
    assert sum(round_.fraction for round_ in rounds[:-1]) == pytest.approx(0 if len(shares) == 1 else student_share)
    assert len({round_.student for round_ in rounds}) == len(rounds)


@given(SHARES)
def test_one_query_less_than_the_fewest_is_too_few_somewhere(shares):
    fewest = fewest_in_rounds(shares)
    with pytest.raises(InputError, match=f"expected at least {fewest}"):
        rounds_of(fewest - 1, shares, student_share=0.5)


def test_shares_that_cannot_be_used():
    for shares in ([], "ab", [0.5, 0.0], [0.5, -1]):
        with pytest.raises(InputError, match="shares"):
            rounds_of(100, shares, student_share=0.5)
    with pytest.raises(InputError, match="first_share"):
        shares_of(3, 1.0)
    assert sum(shares_of(7, 0.3)) == pytest.approx(1)


def test_each_round_asks_about_its_own_rows():
    teacher, bank, images = ToyTeacher(), Bank("transfer_set"), toy_images(30, seed=1)
    box = BlackBox(teacher, "logits", CLASSES, budget=30)
    for round_ in rounds_of(30, [0.5, 0.3, 0.2], student_share=0.4):
        stage = round_.asking(bank, Rows(images[len(bank) : round_.until]))
        assert stage.grows != round_.last
        stage.bank.fill(box, stage.draw, stage.size, stage=stage.name)
    assert torch.equal(torch.cat(teacher.asked), images) and torch.equal(bank.images, images)
    assert box.ledger.by_stage == {"transfer_set": 30}


def test_a_round_that_chose_another_number_of_rows_is_refused():
    first, _ = rounds_of(10, [0.5, 0.5], student_share=0.5)
    with pytest.raises(InputError, match="chose 4 rows: expected 5"):
        first.asking(Bank("transfer_set"), Rows(toy_images(4, seed=1)))


def test_candidates_are_the_images_and_then_views_of_them():
    images = toy_images(10, seed=1)
    some = candidates(images, 25, seed=3, fill=-1.0)
    assert len(some) == 25 and torch.equal(some, candidates(images, 25, seed=3, fill=-1.0))
    assert (torch.cdist(some[:10].flatten(1), images.flatten(1)).amin(dim=0) == 0).all()
    assert len(some.flatten(1).unique(dim=0)) == 25

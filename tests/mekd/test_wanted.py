import pytest
import torch

from mekd_plugin.mekd.wanted import WantedAnswers


def answers():
    """Nine sure answers of class 0, and one unsure one between classes 1 and 2."""
    return torch.tensor([[9.0, 0.0, 0.0]] * 9 + [[0.0, 4.1, 4.0]])


def drawn(**settings):
    return WantedAnswers(answers(), **{"choice": "random", "mixed": 0.0, "seed": 0, **settings}).draw(0, 1000)


def test_wanted_answers_are_those_of_real_images_and_mixtures_of_two():
    known = {tuple(row) for row in answers().tolist()}
    assert {tuple(row) for row in drawn().tolist()} == known
    mixtures = drawn(mixed=1.0)
    share = mixtures[:, 0] / 9
    assert torch.allclose(mixtures[:, 1], 4.1 * (1 - share), atol=1e-4) and len(set(share.tolist())) > 100


@pytest.mark.parametrize(("choice", "low", "high"), [("random", 0.05, 0.15), ("balanced", 0.25, 0.6)])
def test_balance_wants_every_class_alike(choice, low, high):
    assert low < float((drawn(choice=choice).argmax(1) == 1).float().mean()) < high


def test_unsure_answers_are_wanted_more_often():
    plain, unsure = (float((drawn(choice=choice).argmax(1) == 1).float().mean()) for choice in ("random", "uncertain"))
    assert unsure > 3 * plain


def test_a_range_gives_the_same_rows_whatever_was_drawn_before():
    wanted = WantedAnswers(answers(), choice="random", mixed=0.5, seed=3)
    first = wanted.draw(256, 300)
    wanted.draw(0, 10)
    assert torch.equal(first, wanted.draw(256, 300))
    assert not torch.equal(first, WantedAnswers(answers(), choice="random", mixed=0.5, seed=4).draw(256, 300))


def test_the_mean_scores_of_each_class_and_nothing_for_a_class_that_none_name():
    scores = torch.cat([answers(), torch.tensor([[7.0, 2.0, 0.0]])])
    means = WantedAnswers(scores, choice="random", mixed=0.0, seed=0).class_means
    assert torch.allclose(means[:2], torch.tensor([[8.8, 0.2, 0.0], [0.0, 4.1, 4.0]]), atol=1e-5)
    assert means[2].isnan().all()

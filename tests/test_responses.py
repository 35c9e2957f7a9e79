import pytest
import torch

from mekd_plugin.responses import ScoreNormalisation, centre_scores


def test_each_class_gets_the_spread_of_the_generators_noise():
    torch.manual_seed(0)
    scores = centre_scores(
        torch.randn(500, 4) * torch.tensor([1.0, 2.0, 5.0, 0.5]) + torch.tensor([3.0, 0.0, -1.0, 0.0])
    )
    coordinates = ScoreNormalisation.of(scores)(scores)
    assert torch.allclose(coordinates.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(coordinates.std(0), torch.ones(4), atol=1e-5)


def test_one_number_for_all_classes_gives_scores_the_spread_of_noise():
    scores = 7 * torch.randn(5000, 10)
    assert abs(float(ScoreNormalisation.by_spread(scores)(scores).std()) - 1) < 1e-5
    assert torch.isfinite(ScoreNormalisation.by_spread(torch.zeros(4, 3))(torch.zeros(4, 3))).all()


def test_what_is_normalised_can_be_undone():
    scores = torch.randn(20, 3)
    for normalisation in (ScoreNormalisation.of(scores), ScoreNormalisation.by_temperature(5.0)):
        assert torch.allclose(normalisation.undone(normalisation(scores)), scores, atol=1e-6)
    assert ScoreNormalisation.by_temperature(5.0)(scores).tolist() == (scores / 5).tolist()


@pytest.mark.parametrize("scores", [torch.zeros(4, 3), torch.tensor([[1.0, -1.0, 0.0], [-2.0, 2.0, 0.0]])])
def test_a_class_whose_score_never_changes_does_no_harm(scores):
    assert ScoreNormalisation.of(scores)(scores).isfinite().all()
    assert ScoreNormalisation.of(scores)(scores + 0.1).abs().max() < 1e6


def test_two_classes_keep_their_two_sides():
    scores = centre_scores(torch.tensor([[30.0, -30.0], [-30.0, 30.0], [28.0, -28.0], [-29.0, 29.0]]))
    coordinates = ScoreNormalisation.of(scores)(scores)
    assert (coordinates.argmax(1) == scores.argmax(1)).all() and coordinates.abs().max() < 2

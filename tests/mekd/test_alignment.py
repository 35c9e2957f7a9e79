import pytest
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.mekd.alignment import image_distance, latent_from_scores
from mekd_plugin.mekd.folding import fold
from mekd_plugin.networks.generators import Generator
from mekd_plugin.responses import ScoreNormalisation

PLAIN = ScoreNormalisation(0.0, 1.0)


def test_the_distance_is_zero_at_its_optimum_and_counts_by_hand():
    target = torch.zeros(2, 1, 2, 2)
    latent = torch.tensor([[1.0], [3.0]])

    def generator(z):
        return z.view(2, 1, 1, 1).expand(2, 1, 2, 2)

    assert image_distance(generator, torch.zeros(2, 1), target) == 0
    assert image_distance(generator, latent, target) == 2  # mean of 1 and 3
    assert image_distance(generator, latent, target, norm="l2") == 5  # mean of 1 and 9
    with pytest.raises(InputError, match="norm='cosine'"):
        image_distance(generator, latent, target, norm="cosine")


def test_gradients_reach_the_student_and_never_the_generator():
    torch.manual_seed(0)
    frozen = fold(Generator(3, (1, 8, 8), style_dim=2, width=4))
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    scores = torch.randn(4, 3, requires_grad=True)
    style = torch.randn(4, 2)
    target = frozen(latent_from_scores(torch.randn(4, 3), PLAIN, style))
    image_distance(frozen, latent_from_scores(scores, PLAIN, style), target).backward()
    assert scores.grad is not None and scores.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


def test_the_latent_is_normalised_scores_then_style():
    by_temperature = ScoreNormalisation.by_temperature(4.0)
    latent = latent_from_scores(torch.tensor([[2.0, -2.0]]), by_temperature, torch.tensor([[7.0]]))
    assert latent.tolist() == [[0.5, -0.5, 7.0]]
    assert latent_from_scores(torch.ones(1, 2), PLAIN, torch.zeros(1, 0)).shape == (1, 2)

from __future__ import annotations

import pytest
import torch

from mekd_plugin.errors import CheckpointError
from mekd_plugin.networks.generator_files import load_generator
from mekd_plugin.networks.generators import Generator
from mekd_plugin.networks.latent_maps import MappedGenerator
from mekd_plugin.responses import ScoreNormalisation
from mekd_plugin.training.checkpoint import save_weights


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_a_generator_is_read_back_whole(tmp_path, mapped, normalised):
    torch.manual_seed(0)
    generator = Generator(3, (1, 8, 8), style_dim=2, width=4)
    if mapped:
        generator = MappedGenerator(generator, width=8)
    if normalised:
        generator.normalise(ScoreNormalisation.of(torch.randn(20, 3)))
    generator.eval()
    save_weights(generator, tmp_path / "generator.safetensors", config=generator.config)
    again = load_generator(tmp_path / "generator.safetensors")
    latent = torch.randn(2, generator.latent_dim)
    assert type(again) is type(generator) and torch.equal(again(latent), generator(latent))
    assert (again.normalisation is None) == (not normalised)
    if normalised:
        scores = torch.randn(5, 3)
        assert torch.allclose(again.normalisation(scores), generator.normalisation(scores))


def test_a_file_of_something_else_is_refused(tmp_path):
    save_weights(torch.nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="does not hold a generator of ours"):
        load_generator(tmp_path / "other.safetensors")

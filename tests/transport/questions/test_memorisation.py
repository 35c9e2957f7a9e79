from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from mekd_plugin.errors import InputError
from mekd_plugin.transport.questions.memorisation import memorisation


def normal(count: int, dimension: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_generator_that_copies_is_found_out():
    training, held_out = normal(100, 64, 0), normal(100, 64, 1)
    copies = training[torch.randint(100, (80,), generator=torch.Generator().manual_seed(2))]
    found = memorisation(copies.float(), training.float(), held_out.float())
    assert found.nearer_to_training.value == 1 and found.nearer_to_training.low > 0.9
    assert found.chance[1] < 0.7 and found.p_value == pytest.approx(1 / 1000)
    assert (found.to_training == 0).all() and torch.equal(training[found.nearest_training], copies)
    assert found.near_copies.value == 1 and found.near_copies_expected == pytest.approx(0.05, abs=0.02)
    noisy = memorisation(copies + 0.1 * normal(80, 64, 3), training, held_out)
    assert noisy.p_value == pytest.approx(1 / 1000) and noisy.near_copies.value == 1


def test_new_images_of_the_same_distribution_lie_nearer_to_either_by_their_numbers():
    found = memorisation(normal(1500, 4, 0), normal(900, 4, 1), normal(300, 4, 2))
    assert found.expected == 0.75
    assert found.nearer_to_training.value == pytest.approx(0.75, abs=0.04)
    assert found.chance[0] < found.nearer_to_training.value < found.chance[1] and found.p_value > 0.02
    assert found.near_copies.value == pytest.approx(found.near_copies_expected, abs=0.03)


def test_the_p_value_is_uniform_under_no_copying():
    values = np.array(
        [
            memorisation(
                normal(30, 3, 3 * seed), normal(25, 3, 3 * seed + 1), normal(25, 3, 3 * seed + 2), permutations=99
            ).p_value
            for seed in range(200)
        ]
    )
    assert 0.01 <= (values <= 0.05).mean() <= 0.1 and 0.4 <= (values <= 0.5).mean() <= 0.62


def test_a_collapsed_generator_is_one_observation_however_many_images_it_draws():
    training, held_out = normal(20, 5, 0), normal(20, 5, 1)
    found = memorisation(training[:1].repeat(500, 1), training, held_out)
    assert found.nearer_to_training.value == 1
    assert found.chance == (0.0, 1.0) and found.p_value == pytest.approx(0.5, abs=0.06)


def test_the_distances_are_scipys():
    made, training, held_out = normal(12, 6, 0), normal(9, 6, 1), normal(7, 6, 2)
    found = memorisation(made.reshape(12, 1, 2, 3), training.reshape(9, 1, 2, 3), held_out.reshape(7, 1, 2, 3))
    to_training, to_held_out = cdist(made, training).min(1), cdist(made, held_out).min(1)
    np.testing.assert_allclose(found.to_training, to_training)
    np.testing.assert_allclose(found.to_held_out, to_held_out)
    np.testing.assert_allclose(found.held_out_to_training, cdist(held_out, training).min(1))
    assert found.nearer_to_training.value == pytest.approx((to_training < to_held_out).mean())
    record = json.loads(json.dumps(found.as_record(), allow_nan=False))
    assert record["deciles"]["to_training"][0] == pytest.approx(to_training.min())


def test_duplicates_across_the_sets_share_a_tie():
    twins = torch.tensor([[0.0], [10.0]])
    found = memorisation(torch.tensor([[1.0], [9.0], [10.0]]), twins, twins)
    assert found.nearer_to_training.value == found.expected == 0.5 and found.p_value > 0.5
    assert found.near_copies_expected == 1  # every held-out image is a training image
    same = memorisation(torch.ones(5, 3), torch.ones(4, 3), torch.ones(2, 3))
    assert same.nearer_to_training.value == pytest.approx(4 / 6) and same.p_value == 1


def test_refuses():
    with pytest.raises(InputError, match="2, 2 and 3 coordinates"):
        memorisation(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(InputError, match="held_out of shape"):
        memorisation(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(0, 2))
    with pytest.raises(InputError, match="permutations=0"):
        memorisation(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 2), permutations=0)

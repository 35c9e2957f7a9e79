from __future__ import annotations

import numpy as np
import torch

from mekd_plugin.blackbox.image_hashes import DistinctCounter, image_hashes


def test_equal_images_have_equal_fingerprints_in_any_layout(some_images):
    images = torch.rand(6, 3, 8, 8)
    expected = image_hashes(images)
    assert expected.dtype == torch.int64 and expected.shape == (6,)
    assert torch.equal(image_hashes(images.contiguous(memory_format=torch.channels_last)), expected)
    assert torch.equal(image_hashes(images.double()), expected)
    assert torch.equal(torch.cat([image_hashes(image[None]) for image in images]), expected)


def test_the_number_is_the_formula_by_hand():
    # One pixel 1.0 has the bits 0x3f800000; m(x) = x ^ (x >> 15); the first weight is splitmix64(1) | 1.
    word = 0x3F800000 ^ (0x3F800000 >> 15)
    state = 0x9E3779B97F4A7C15
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    weight = (state ^ (state >> 31)) | 1
    assert image_hashes(torch.ones(1, 1, 1, 1)).item() % 2**64 == word * weight % 2**64


def test_nearly_equal_images_differ():
    base = torch.zeros(3072 + 1, 3, 32, 32)
    base.view(3073, -1)[torch.arange(3072), torch.arange(3072)] = 1  # one round value, somewhere else in every image
    assert len(image_hashes(base).unique()) == 3073


def test_coarse_values_do_not_collide():
    images = torch.randint(0, 17, (20_000, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 16
    assert len(image_hashes(images).unique()) == len(images.flatten(1).unique(dim=0)) == 20_000


def test_no_images_have_no_fingerprints():
    assert image_hashes(torch.empty(0, 1, 4, 4)).shape == (0,)


def test_counts_distinct_numbers_over_many_additions():
    counter, numbers = DistinctCounter(), np.random.default_rng(0).integers(0, 5000, 30_000)
    for part in np.array_split(numbers, 100):
        counter.add(part)
    assert len(counter) == len(set(numbers.tolist()))

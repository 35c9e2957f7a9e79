from __future__ import annotations

import pytest
import torch

from mekd_plugin.data import ImageData, edge_images
from mekd_plugin.errors import InputError


def numbered(count: int) -> ImageData:
    """Training image number i is i everywhere; test images are all -1."""
    images = torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    labels = torch.arange(count) % 10
    return ImageData(images, labels, torch.full((5, 1, 4, 4), -1.0), labels[:5], 10, "numbered")


def test_the_edge_holds_some_of_the_teachers_training_images_each_once():
    split = edge_images(numbered(100), real_images=30, seed=0)
    assert split.images[:, 0, 0, 0].tolist() == split.indices.tolist()
    assert len(set(split.indices.tolist())) == 30
    assert split.teacher_indices.tolist() == list(range(100)) and not split.disjoint


def test_disjoint_sides_share_no_image_and_lose_none():
    split = edge_images(numbered(100), real_images=30, seed=0, disjoint=True)
    assert split.disjoint
    assert sorted(split.indices.tolist() + split.teacher_indices.tolist()) == list(range(100))
    assert split.teacher_indices.tolist() == sorted(split.teacher_indices.tolist())
    # Who keeps what out of whose data does not change what the edge holds.
    assert torch.equal(split.indices, edge_images(numbered(100), real_images=30, seed=0).indices)


def test_the_seed_decides_and_the_global_state_has_no_part_in_it():
    first = edge_images(numbered(100), real_images=30, seed=1).indices
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(first, edge_images(numbered(100), real_images=30, seed=1).indices)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, edge_images(numbered(100), real_images=30, seed=2).indices)


def test_fewer_images_are_a_beginning_of_more():
    few, many = (edge_images(numbered(100), real_images=n, seed=3).indices for n in (10, 40))
    assert torch.equal(few, many[:10])


@pytest.mark.parametrize(
    ("total", "fraction", "count"), [(1257, 0.1, 125), (100, 0.29, 29), (100, 1.0, 100), (9, 0.33, 2)]
)
def test_a_fraction_is_rounded_down(total, fraction, count):
    assert len(edge_images(numbered(total), real_fraction=fraction, seed=0).indices) == count


def test_the_draw_is_uniform_over_the_training_images():
    drawn = torch.cat([edge_images(numbered(20), real_images=5, seed=seed).indices for seed in range(400)])
    assert (drawn.bincount(minlength=20) - 100).abs().max() < 45  # standard deviation 8.7


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "real_fraction=None, real_images=None: expected exactly one of them, .* 100 training images of numbered"),
        ({"real_fraction": 0.1, "real_images": 10}, "expected exactly one of them"),
        ({"real_fraction": 0.0}, r"real_fraction=0.0: expected a share of the training images, in \(0, 1\]"),
        ({"real_fraction": 1.1}, "real_fraction=1.1: expected a share"),
        ({"real_fraction": 0.01}, "real_fraction=0.01 gives 1 of 100 images: expected at least 2"),
        ({"real_images": 0}, "real_images=0 gives 0 of 100 images: expected at least 2"),
        ({"real_images": 1}, "expected at least 2 to learn from"),
        ({"real_images": 101}, "real_images=101: numbered has only 100 training images"),
        ({"real_fraction": 1.0, "disjoint": True}, "disjoint=True leaves the teacher none of the 100 training images"),
    ],
)
def test_bad_input_is_named(settings, words):
    with pytest.raises(InputError, match=words):
        edge_images(numbered(100), seed=0, **settings)

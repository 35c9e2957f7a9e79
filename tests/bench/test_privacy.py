"""The attack as a run's record has it."""

from __future__ import annotations

import json

import torch

from mekd_plugin.bench.privacy import attack, shrunk, strangers_to, what_was_sent


def images(count: int, seed: int, side: int = 8) -> torch.Tensor:
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_sent_copies_are_found_and_new_images_are_not() -> None:
    edge, others = images(60, 0), images(200, 1)
    copied = what_was_sent(edge.half().float(), 60, edge, others, seed=0)
    assert copied is not None and copied["images"] == copied["sample"] == 60
    assert copied["membership"]["auc"]["value"] == 1 and copied["membership"]["nearest_ratio"] < 0.01
    assert copied["membership"]["others"] == copied["membership"]["reference"] == 100
    new = what_was_sent(images(60, 2), 400, edge, others, seed=0)
    assert new is not None and new["images"] == 400
    assert new["membership"]["auc"]["low"] < 0.5 < new["membership"]["auc"]["high"]
    assert json.loads(json.dumps(new)) == new


def test_whether_an_image_was_sent_is_not_whether_it_is_attacked() -> None:
    """Half of the edge is sent, in the order of the seed's own permutation, as `kd` sends it: all of seed 0's members
    would be among it."""
    edge, others = images(6000, 0, side=2), images(3000, 1, side=2)
    for seed in range(2):
        order = torch.randperm(len(edge), generator=torch.Generator().manual_seed(seed))
        found = attack(edge[order[:3000]], edge, others, seed=seed)
        assert found is not None
        copied = float((found.uncalibrated.value - 0.5) * 2)
        assert 0.2 < copied < 0.8, "half of the members were sent"


def test_where_no_attack_by_pixels_is_possible() -> None:
    edge, others = images(10, 0), images(10, 1)
    assert attack(images(10, 2, side=16), edge, others, seed=0) is None
    assert attack(images(10, 2), edge, others[:3], seed=0) is None
    assert what_was_sent(torch.zeros(0, 1, 8, 8), 0, edge, others, seed=0) is None
    assert what_was_sent(images(10, 2, side=16), 10, edge, others, seed=0) == {
        "images": 10,
        "sample": 10,
        "membership": None,
    }


def test_large_images_are_shrunk_alike() -> None:
    assert shrunk(images(2, 0, side=40)).shape == (2, 1, 32, 32)
    assert shrunk(torch.ones(1, 1, 64, 16)).shape == (1, 1, 32, 16) and (shrunk(torch.ones(1, 1, 64, 16)) == 1).all()
    small = images(2, 0)
    assert shrunk(small) is small
    edge = images(30, 0, side=40)
    found = attack(shrunk(edge), edge, images(60, 1, side=40), seed=0)
    assert found is not None and found.auc.value == 1


def test_strangers_are_training_images_or_else_test_images() -> None:
    train, test = images(10, 0), images(5, 1)
    assert torch.equal(
        strangers_to(torch.tensor([0, 3, 9]), train, test)[torch.arange(7)], train[[1, 2, 4, 5, 6, 7, 8]]
    )
    assert torch.equal(strangers_to(torch.arange(8), train, test), test)

"""The images that left, seen on their way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mekd_plugin.bench.privacy import what_was_sent
from mekd_plugin.bench.sent import SentImages, SentSample


def test_the_last_image_of_each_class(tmp_path) -> None:
    watcher = SentImages(tmp_path / "sent.npz", 3)
    images = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    ask = watcher.wrap(lambda sent: torch.tensor([0, 2, 2]))
    assert ask(images).tolist() == [0, 2, 2]
    watcher.write()
    kept = np.load(tmp_path / "sent.npz")
    assert kept["labels"].tolist() == [0, 2]
    assert kept["images"][:, 0, 0, 0].tolist() == [0, 255]


def test_scores_of_a_module(tmp_path) -> None:
    watcher = SentImages(tmp_path / "sent.npz", 2)
    wrapped = watcher.wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, 2)))
    assert isinstance(wrapped, nn.Module)
    wrapped(torch.zeros(5, 3, 2, 2))
    assert np.load(tmp_path / "sent.npz")["images"].shape == (1, 2, 2, 3)


def test_many_classes_are_thinned_out_evenly(tmp_path) -> None:
    watcher = SentImages(tmp_path / "sent.npz", 1000)
    watcher.see(torch.zeros(1000, 1, 2, 2), torch.arange(1000))
    assert np.load(tmp_path / "sent.npz")["labels"].tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


def test_a_resumed_run_goes_on_with_what_was_seen(tmp_path) -> None:
    SentImages(tmp_path / "sent.npz", 3).see(torch.zeros(1, 1, 2, 2), np.array([0]))
    second = SentImages(tmp_path / "sent.npz", 3)
    second.see(torch.zeros(1, 1, 2, 2), np.array([1]))
    assert np.load(tmp_path / "sent.npz")["labels"].tolist() == [0, 1]


def test_nothing_sent_writes_nothing(tmp_path) -> None:
    SentImages(tmp_path / "sent.npz", 3).write()
    assert not (tmp_path / "sent.npz").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04torn"])
def test_a_damaged_file_is_begun_again(tmp_path, content) -> None:
    path = tmp_path / "sent.npz"
    path.write_bytes(content)
    watcher = SentImages(path, 3)
    watcher.see(torch.zeros(1, 1, 4, 4), torch.tensor([1]))
    watcher.write()
    assert np.load(path)["labels"].tolist() == [1]


def numbered(start: int, stop: int) -> torch.Tensor:
    """Images that say which they are, exactly in half precision."""
    return torch.arange(start, stop).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).float()


def test_a_sample_holds_all_of_few_images(tmp_path) -> None:
    sample = SentSample(tmp_path / "sample.npz", size=10)
    watcher = SentImages(tmp_path / "sent.npz", 3, sample=sample)
    watcher.wrap(lambda sent: torch.zeros(len(sent), 3))(numbered(0, 7))
    assert sample.seen == 7 and sample.images[:, 0, 0, 0].tolist() == list(range(7))


def test_each_image_is_as_likely_to_be_in_the_sample(tmp_path) -> None:
    """Of 40 images in batches of 7, each is in a sample of 10 in a quarter of the cases."""
    counts = torch.zeros(40)
    for shift in range(400):
        sample = SentSample(tmp_path / "none.npz", size=10)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(shift))
        for part in order.split(7):
            sample.see(part.view(-1, 1, 1, 1).float())
        drawn = sample.images[:, 0, 0, 0].long()
        assert len(drawn.unique()) == 10
        counts[drawn] += 1
    assert (counts / 400 - 0.25).abs().max() < 0.08


def test_late_images_are_in_the_sample_as_well_as_early_ones(tmp_path) -> None:
    sample = SentSample(tmp_path / "none.npz", size=400)
    for start in range(0, 2000, 128):
        sample.see(numbered(start, min(start + 128, 2000)))
    drawn = sample.images[:, 0, 0, 0]
    assert sample.seen == 2000 and len(drawn.unique()) == 400
    assert abs(float((drawn < 1000).float().mean()) - 0.5) < 0.08 and abs(float(drawn.mean()) - 1000) < 90


def test_a_resumed_sample_is_that_of_an_undisturbed_run(tmp_path) -> None:
    whole, first = SentSample(tmp_path / "a.npz", size=5), SentSample(tmp_path / "b.npz", size=5)
    for start in range(0, 24, 4):
        whole.see(numbered(start, start + 4))
    for start in range(0, 12, 4):
        first.see(numbered(start, start + 4))
    first.write()
    second = SentSample(tmp_path / "b.npz", size=5)
    for start in range(12, 24, 4):
        second.see(numbered(start, start + 4))
    assert second.seen == 24 and torch.equal(second.images, whole.images)


def test_copies_are_found_however_many_images_are_sent(tmp_path) -> None:
    """What `kd` sends, of which an attack on a sample of 5,000 would find a quarter."""
    edge = torch.randn(10_000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    others = torch.randn(2000, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    sample = SentSample(tmp_path / "a.npz")
    for part in torch.cat([edge, edge]).split(4096):
        sample.see(part)
    assert sample.complete and sample.seen == len(sample.images) == 20_000
    found = what_was_sent(sample.images, sample.seen, edge, others, seed=0)
    assert found is not None and found["membership"]["auc"]["value"] > 0.99
    sample.write()
    again = SentSample(tmp_path / "a.npz")
    assert again.seen == 20_000 and torch.equal(again.images, sample.images)
    assert not SentSample(tmp_path / "a.npz", size=100).seen, "a larger one is begun again"
    smaller = SentSample(tmp_path / "b.npz", size=100)
    smaller.see(edge[:300])
    smaller.write()
    kept = SentSample(tmp_path / "b.npz")
    assert kept.seen == 300 and len(kept.images) == 100 and not kept.complete
    kept.see(edge[300:900])
    assert kept.seen == 900 and len(kept.images) == 100, "a smaller one stays a sample of that size"


def test_a_sample_is_written_only_where_there_is_something_new(tmp_path) -> None:
    sample = SentSample(tmp_path / "a.npz")
    sample.see(numbered(0, 3))
    sample.write()
    (tmp_path / "a.npz").unlink()
    sample.write()
    assert not (tmp_path / "a.npz").exists()
    sample.see(numbered(3, 4))
    sample.write()
    assert SentSample(tmp_path / "a.npz").seen == 4


def test_global_random_numbers_are_left_alone(tmp_path) -> None:
    state = torch.get_rng_state()
    sample = SentSample(tmp_path / "a.npz", size=2)
    sample.see(numbered(0, 50))
    assert torch.equal(state, torch.get_rng_state())


def test_large_images_are_kept_small_and_other_shapes_not_at_all(tmp_path) -> None:
    sample = SentSample(tmp_path / "a.npz")
    sample.see(torch.ones(2, 3, 64, 64))
    assert sample.images.shape == (2, 3, 32, 32)
    sample.see(torch.ones(1, 1, 8, 8))
    sample.write()
    assert len(sample.images) == 0 and not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04torn"])
def test_a_damaged_sample_is_begun_again(tmp_path, content) -> None:
    path = tmp_path / "sample.npz"
    path.write_bytes(content)
    sample = SentSample(path)
    sample.see(numbered(0, 3))
    sample.write()
    assert SentSample(path).seen == 3 and np.load(path)["images"].shape == (3, 1, 2, 2)

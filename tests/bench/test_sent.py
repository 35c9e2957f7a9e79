"""The images that left, seen on their way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mekd_plugin.bench.sent import SentImages


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

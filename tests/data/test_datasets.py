from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from torch.nn import functional as F

from mekd_plugin.data import dataset_names, load
from mekd_plugin.errors import DataMissing, InputError, UnknownName


@pytest.fixture(autouse=True)
def no_default_root(monkeypatch):
    monkeypatch.delenv("MEKD_DATA", raising=False)


def check(data, image_shape, num_classes):
    assert data.image_shape == image_shape and data.num_classes == num_classes
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert images.shape == (len(labels), *image_shape)
        assert images.dtype == torch.float32 and images.is_contiguous() and labels.dtype == torch.int64
        assert images.min() >= -1 and images.max() <= 1
        assert labels.min() >= 0 and labels.max() < num_classes


def test_every_promised_data_set_is_there():
    assert dataset_names() == [
        "digits", "rendered_digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "tiny_imagenet",
    ]  # fmt: skip


def test_digits_are_whole_stratified_and_the_same_every_time():
    data, again = load("digits"), load("digits")
    check(data, (1, 16, 16), 10)
    assert len(data.train_labels) == 1257 and len(data.test_labels) == 540
    assert torch.equal(data.train_images, again.train_images) and torch.equal(data.test_labels, again.test_labels)
    shares = [labels.bincount() / len(labels) for labels in (data.train_labels, data.test_labels)]
    assert (shares[0] - shares[1]).abs().max() < 0.002
    # Each of the 1,797 originals is on one side, once.
    originals = F.interpolate(
        torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1, (16, 16), mode="bilinear"
    )
    ours = torch.cat([data.train_images, data.test_images])
    assert torch.equal(ours.flatten(1).sum(dim=1).sort().values, originals.flatten(1).sum(dim=1).sort().values)
    assert ours.min() == -1 and ours.max() == 1


def test_mnist_is_padded_with_black_to_32(mnist_root):
    data = load("mnist", mnist_root)
    check(data, (1, 32, 32), 10)
    frame = F.pad(torch.zeros(28, 28, dtype=torch.bool), (2, 2, 2, 2), value=True)
    assert (data.test_images[:, :, frame] == -1).all()
    assert data.test_images[:, :, ~frame].max() == 1


def test_mnist_pixels_are_the_files(tiny_mnist):
    data = load("mnist", tiny_mnist)
    raw = np.frombuffer((tiny_mnist / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:], dtype=np.uint8)
    expected = raw.reshape(20, 28, 28) / 127.5 - 1
    np.testing.assert_allclose(data.test_images[:, 0, 2:-2, 2:-2].numpy(), expected, atol=1e-6)
    assert data.train_labels.tolist() == [row % 10 for row in range(40)]
    assert data.train_images.shape == (40, 1, 32, 32)


def test_the_root_comes_from_the_environment_where_none_is_given(tiny_mnist, monkeypatch):
    monkeypatch.setenv("MEKD_DATA", str(tiny_mnist))
    assert len(load("mnist").train_labels) == 40


def test_fashion_mnist_has_its_own_folder(tiny_mnist):
    (tiny_mnist / "MNIST").rename(tiny_mnist / "FashionMNIST")
    check(load("fashion_mnist", tiny_mnist), (1, 32, 32), 10)


def test_image_size_scales_every_image_within_the_range(tiny_mnist):
    check(load("mnist", tiny_mnist, image_size=16), (1, 16, 16), 10)
    data = load("digits", image_size=32)
    check(data, (1, 32, 32), 10)
    assert data.train_images.min() == -1


class Reader:
    """Stands for torchvision's readers, whose files are checked against checksums that no tiny file can have."""

    def __init__(self, layout, num_classes):
        self.layout, self.num_classes, self.calls = layout, num_classes, []

    def __call__(self, root, download, **split):
        self.calls.append((root, download, split))
        count = 6 if split in ({"train": True}, {"split": "train"}) else 4
        pixels = np.random.default_rng(count).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(count) % self.num_classes
        if self.layout == "cifar":
            return SimpleNamespace(data=pixels.transpose(0, 2, 3, 1), targets=labels.tolist())
        return SimpleNamespace(data=pixels, labels=labels)


@pytest.mark.parametrize(
    ("name", "class_name", "num_classes"),
    [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 100), ("svhn", "SVHN", 10)],
)
def test_colour_sets_have_channels_first_and_are_downloaded_only_when_asked(
    name, class_name, num_classes, tmp_path, monkeypatch
):
    reader = Reader("svhn" if name == "svhn" else "cifar", num_classes)
    monkeypatch.setattr(torchvision.datasets, class_name, reader)
    data = load(name, tmp_path)
    check(data, (3, 32, 32), num_classes)
    pixels = np.random.default_rng(6).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    np.testing.assert_allclose(data.train_images.numpy(), pixels / 127.5 - 1, atol=1e-6)
    load(name, tmp_path, download=True)
    assert [download for _, download, _ in reader.calls] == [False, False, True, True]
    assert reader.calls[0][0] == str(tmp_path)


def test_without_a_root_the_message_says_how_to_give_one():
    with pytest.raises(DataMissing, match=r"mnist needs a folder .*--data-root DIR .*\$MEKD_DATA, .*--download"):
        load("mnist")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnist", "Expected there: MNIST/raw/train-images-idx3-ubyte, .*--download"),
        ("fashion_mnist", "FashionMNIST/raw/t10k-labels-idx1-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("svhn", "train_32x32.mat, test_32x32.mat"),
        ("tiny_imagenet", "wnids.txt, train/<class>/images/.*--download"),
    ],
)
def test_missing_files_are_named_and_nothing_is_written(name, words, tmp_path):
    with pytest.raises(DataMissing, match=words):
        load(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_truncated_file_is_named(tiny_mnist):
    path = tiny_mnist / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataMissing, match="mnist could not be read from .*Expected there: MNIST/raw/train-images"):
        load("mnist", tiny_mnist)


def test_unknown_names_and_bad_sizes_are_named():
    with pytest.raises(
        UnknownName, match="unknown data set 'mnits': did you mean 'mnist'\\? Known: digits, .*imagefolder:PATH"
    ):
        load("mnits")
    with pytest.raises(UnknownName, match="unknown data set 'zzz': Known: digits"):
        load("zzz")
    with pytest.raises(InputError, match="image_size=3: expected at least 4 pixels"):
        load("digits", image_size=3)

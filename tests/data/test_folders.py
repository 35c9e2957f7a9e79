from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets.utils
from PIL import Image

from mekd_plugin.data import load
from mekd_plugin.data.folders import to_value_range
from mekd_plugin.errors import DataMissing, InputError


def write_image(path: Path, value: int | tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(value, int) else "RGB", size, value).save(path)


def write_folder(root: Path, values: list, test: str = "test", size: tuple[int, int] = (8, 8)) -> str:
    """A class a value, three training images and one test image each, all pixels of that value."""
    for label, value in enumerate(values):
        for part, count in (("train", 3), (test, 1)):
            for number in range(count):
                write_image(root / part / f"class{label}" / f"{number}.png", value, size)
    return f"imagefolder:{root}"


def test_value_range_is_minus_one_to_one():
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8)
    assert to_value_range(pixels).tolist() == pytest.approx([-1, 1, -0.6])
    assert pixels.tolist() == [0, 255, 51]


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_colour_folder_is_read_class_by_class(tmp_path, test):
    name = write_folder(tmp_path, [(255, 0, 0), (0, 51, 0)], test, size=(12, 8))
    data = load(name)
    assert data.name == name and data.num_classes == 2 and data.image_shape == (3, 8, 12)
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and data.test_labels.tolist() == [0, 1]
    assert data.train_images.dtype == torch.float32
    np.testing.assert_allclose(data.test_images[:, :, 0, 0].tolist(), [[1, -1, -1], [-1, -0.6, -1]], atol=1e-6)


def test_a_folder_of_greyscale_files_has_one_channel_and_one_colour_file_makes_it_three(tmp_path):
    name = write_folder(tmp_path, [0, 255])
    assert load(name).image_shape == (1, 8, 8)
    write_image(tmp_path / "train" / "class0" / "9.png", (1, 2, 3))
    assert load(name).image_shape == (3, 8, 8)


def test_image_size_brings_images_of_all_sizes_to_one(tmp_path):
    name = write_folder(tmp_path, [0, 255])
    write_image(tmp_path / "test" / "class1" / "other.png", 255, size=(20, 5))
    with pytest.raises(InputError, match="other.png is 20x5 and others are 8x8: set image_size= to scale them all"):
        load(name)
    data = load(name, image_size=16)
    assert data.image_shape == (1, 16, 16)
    assert data.test_images[data.test_labels == 1].unique().tolist() == [1.0]


def test_the_home_folder_and_relative_paths_are_understood(tmp_path, monkeypatch):
    write_folder(tmp_path, [0, 255])
    monkeypatch.chdir(tmp_path.parent)
    assert load(f"imagefolder:{tmp_path.name}").num_classes == 2
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert load(f"imagefolder:~/{tmp_path.name}").num_classes == 2


def take_out_test(root: Path) -> None:
    shutil.rmtree(root / "test")


def take_out_class(root: Path) -> None:
    shutil.rmtree(root / "test" / "class1")


def leave_one_class(root: Path) -> None:
    for part in ("train", "test"):
        shutil.rmtree(root / part / "class1")


def empty_class(root: Path) -> None:
    for file in (root / "train" / "class0").iterdir():
        file.unlink()


def no_image(root: Path) -> None:
    (root / "train" / "class0" / "1.png").write_text("no image")


def truncated(root: Path) -> None:
    rng = np.random.default_rng(0)
    path = root / "train" / "class0" / "1.png"
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:70])


def sixteen_bits(root: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(root / "train" / "class0" / "1.png")


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (shutil.rmtree, DataMissing, r"is not an image folder: expected .*train and .*test \(or val\)"),
        (take_out_test, DataMissing, "is not an image folder"),
        (take_out_class, InputError, r"hold different classes \(class1 on one side only\)"),
        (leave_one_class, InputError, "holds 1 class folders: expected at least 2"),
        (empty_class, DataMissing, "class0 holds no image files: expected some of .bmp, .jpeg"),
        (no_image, DataMissing, "1.png cannot be read as an image"),
        (truncated, DataMissing, "1.png is truncated or damaged"),
        (sixteen_bits, InputError, "1.png has more than 8 bits per channel .*convert it to 8 bits first"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path, damage, error, words):
    name = write_folder(tmp_path / "images", [0, 255])
    damage(tmp_path / "images")
    with pytest.raises(error, match=words):
        load(name)


def write_tiny_imagenet(root: Path) -> None:
    folder = root / "tiny-imagenet-200"
    for label, name in enumerate(("n002", "n001")):
        for number in range(2):
            write_image(folder / "train" / name / "images" / f"{name}_{number}.JPEG", (label * 255,) * 3, (64, 64))
        write_image(folder / "val" / "images" / f"val_{label}.JPEG", (label * 255,) * 3, (64, 64))
    (folder / "wnids.txt").write_text("n002\nn001\n")
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn002\t0\t0\t9\t9\nval_1.JPEG\tn001\t0\t0\t9\t9\n")


def test_tiny_imagenet_takes_the_labelled_validation_images_as_its_test_set(tmp_path):
    write_tiny_imagenet(tmp_path)
    data = load("tiny_imagenet", tmp_path)
    assert data.image_shape == (3, 64, 64) and data.num_classes == 2
    # Classes in sorted order: n001 (white) is 0.
    assert data.train_labels.tolist() == [0, 0, 1, 1] and data.test_labels.tolist() == [1, 0]
    assert data.train_images[:, 0, 0, 0].tolist() == [1, 1, -1, -1] and data.test_images[:, 0, 0, 0].tolist() == [-1, 1]


def test_tiny_imagenet_is_fetched_only_when_asked_and_only_once(tmp_path, monkeypatch):
    fetched = []

    def fetch(url, root, md5):
        fetched.append(url)
        write_tiny_imagenet(Path(root))

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fetch)
    for _ in range(2):
        load("tiny_imagenet", tmp_path, download=True)
    assert len(fetched) == 1 and fetched[0].endswith("tiny-imagenet-200.zip")


def test_a_failed_download_is_named(tmp_path, monkeypatch):
    def fail(url, root, md5):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", fail)
    with pytest.raises(DataMissing, match="tiny_imagenet could not be fetched from .*no network"):
        load("tiny_imagenet", tmp_path, download=True)


def test_a_photograph_stands_as_it_was_held(tmp_path):
    name = write_folder(tmp_path, [0, 255], size=(8, 12))
    sensor = Image.new("L", (12, 8), 0)
    sensor.paste(255, (0, 0, 12, 4))  # the upper half as the sensor saw it
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise: that half is then at the right
    sensor.save(tmp_path / "train" / "class0" / "0.png", exif=exif)
    first = load(name).train_images[0, 0]
    assert first.shape == (12, 8)
    assert (first[:, :4] == -1).all() and (first[:, 4:] == 1).all()


def test_a_decompression_bomb_is_named(tmp_path, monkeypatch):
    name = write_folder(tmp_path, [0, 255])
    write_image(tmp_path / "test" / "class1" / "bomb.png", 255, size=(64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"bomb.png is far too large to be decoded safely"):
        load(name, image_size=8)

"""Image files and images of PIL as tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mekd_plugin.errors import DataMissing, InputError
from mekd_plugin.image_files import is_images_of_files, read_images

ROOT = Path(__file__).parents[1]


@pytest.fixture
def photos(tmp_path):
    """Two grey squares of 8 and 6 pixels, one of them a JPEG, and a file that is no image."""
    Image.new("L", (8, 8), 255).save(tmp_path / "a.png")
    Image.new("L", (6, 6), 0).save(tmp_path / "b.JPG")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_flat_folder_is_read_in_order_and_brought_to_one_shape(photos):
    images = read_images(photos, (3, 8, 8))
    assert images.shape == (2, 3, 8, 8) and images.dtype == torch.float32
    assert images[0].unique().tolist() == [1.0] and images[1].unique().tolist() == [-1.0]


def test_files_and_images_of_pil_are_the_same(photos):
    opened = [Image.open(photos / "a.png"), Image.open(photos / "b.JPG")]
    paths = [photos / "a.png", str(photos / "b.JPG")]
    shape = (1, 4, 6)
    assert torch.equal(read_images(opened, shape), read_images(paths, shape))
    assert opened[0].getpixel((0, 0)) == 255, "what was handed in stays open"
    assert is_images_of_files(paths) and is_images_of_files(opened) and is_images_of_files(photos)
    assert not is_images_of_files(torch.zeros(2, 1, 8, 8)) and not is_images_of_files([torch.zeros(1, 8, 8)])


def test_one_file_keeps_its_size_and_colour_makes_three_channels(photos):
    assert read_images(photos / "b.JPG").shape == (1, 1, 6, 6)
    Image.new("RGB", (6, 6), (255, 0, 0)).save(photos / "c.png")
    assert read_images([photos / "b.JPG", photos / "c.png"])[1, :, 0, 0].tolist() == [1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    ("given", "shape", "error", "words"),
    [
        ("", None, InputError, "b.JPG is 6x6 and others are 8x8: set image_shape="),
        ("missing", None, DataMissing, "missing is no folder of image files: expected some of .bmp"),
        ("notes.txt", None, DataMissing, "notes.txt cannot be read as an image"),
        ("", (4, 8, 8), InputError, r"image_shape=\(4, 8, 8\): expected 1 channel \(grey\) or 3 \(RGB\)"),
    ],
)
def test_what_cannot_be_read_is_named(photos, given, shape, error, words):
    with pytest.raises(error, match=words):
        read_images(photos / given, shape)


def test_pillow_is_loaded_by_files_and_by_nobody_else(photos):
    """Nor are SciPy's statistics, which take as long to load as all of training, until they measure something."""
    code = (
        "import sys, mekd_plugin as mekd\n"
        "mekd.distill, mekd.BlackBox, mekd.train_teacher, mekd.data\n"
        "assert not {'PIL', 'scipy.stats'} & set(sys.modules)\n"
        "from mekd_plugin.image_files import read_images\n"
        f"read_images({str(photos / 'a.png')!r})\n"
        "assert 'PIL' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

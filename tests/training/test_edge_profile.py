"""What an exported student weighs and how fast it answers; how fast is this machine's affair and not tested."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from PIL import Image
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.blackbox import onnx_teacher
from mekd_plugin.errors import CheckpointError, InputError, MissingDependency
from mekd_plugin.networks import build
from mekd_plugin.training.edge_profile import profile_onnx
from mekd_plugin.training.saved_student import save_student

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    student = build("lenet5", 4, SHAPE, seed=0).eval()
    world = {"image_shape": SHAPE, "value_range": (0.0, 1.0), "num_classes": 4, "network": "lenet5"}
    return save_student(student, tmp_path_factory.mktemp("student"), **world)


def test_int8_is_smaller_and_measured_on_the_images_given(folder, tmp_path, caplog):
    saved = mekd.load_student(folder)
    images = torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.WARNING):
        found = saved.profile(images, repeats=2, int8=tmp_path / "small.onnx")
    assert not caplog.records, "no advice to run another tool"
    assert found.float32.kilobytes == (folder / "student.onnx").stat().st_size / 1000
    assert found.int8.kilobytes == (tmp_path / "small.onnx").stat().st_size / 1000 < found.float32.kilobytes / 2
    assert list(found.float32.milliseconds) == list(found.int8.milliseconds) == [1, 32]
    assert all(value > 0 for form in (found.float32, found.int8) for value in form.milliseconds.values())
    labels = onnx_teacher(tmp_path / "small.onnx")(images).argmax(dim=1)
    same = (labels == saved.predict(images).labels).double().mean()
    assert found.agreement.value == same and found.agreement.images == 40
    assert found.agreement.low <= same <= found.agreement.high
    said = str(found)
    assert "ms an image, batch of 32" in said and "of 40 images" in said and "1 thread, median of 2 runs" in said
    assert "noise" not in said


def test_without_images_it_says_that_it_looked_at_noise(folder):
    found = mekd.load_student(folder).profile(repeats=1, threads=2)
    assert found.agreement.images == 256
    assert "of 256 images of noise" in str(found) and "2 threads" in str(found)


def test_files_are_prepared_as_for_a_prediction(folder, tmp_path):
    for shade in (0, 120, 250):
        Image.new("RGB", (30, 20), (shade, 9, 9)).save(tmp_path / f"{shade}.png")
    assert mekd.load_student(folder).profile(tmp_path, repeats=1).agreement.images == 3


def test_what_cannot_be_profiled_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="repeats=0"):
        mekd.load_student(folder).profile(repeats=0)
    with pytest.raises(InputError, match="no image to compare float32 and int8 on"):
        profile_onnx(folder / "student.onnx", SHAPE, (0, 1), torch.empty(0, *SHAPE))
    with pytest.raises(CheckpointError, match="expected an .onnx model"):
        profile_onnx(tmp_path / "gone.onnx", SHAPE, (0, 1))


class Looks(nn.Module):
    """What no exporter follows: it looks at values."""

    def __init__(self):
        super().__init__()
        self.inner = build("lenet5_half", 4, SHAPE, seed=0)

    def forward(self, images):
        return self.inner(images) * (2 if float(images.sum()) > 0 else 1)


def test_a_student_that_was_saved_without_a_model_is_exported_where_it_can_be(tmp_path):
    world = {"image_shape": SHAPE, "value_range": (0.0, 1.0), "num_classes": 4, "onnx": False}
    save_student(build("lenet5_half", 4, SHAPE, seed=0), tmp_path / "plain", network="lenet5_half", **world)
    assert mekd.load_student(tmp_path / "plain").profile(repeats=1).int8.kilobytes > 1
    assert not (tmp_path / "plain" / "student.onnx").exists()
    save_student(Looks(), tmp_path / "looks", **world)
    with pytest.raises(CheckpointError, match=r"holds no student.onnx, which a profile runs, .* cannot be exported \("):
        mekd.load_student(tmp_path / "looks", Looks()).profile(repeats=1)


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxruntime.quantization"])
def test_what_is_not_installed_is_named_with_its_command(folder, monkeypatch, missing):
    monkeypatch.delitem(sys.modules, "onnxruntime.quantization", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependency, match=r"needs onnxruntime and onnx .*: pip install 'mekd-plugin\[onnx\]'"):
        mekd.load_student(folder).profile()

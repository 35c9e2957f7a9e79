"""A student that travels: what is saved says the same elsewhere."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.errors import CheckpointError, InputError
from mekd_plugin.networks import build
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.saved_student import save_student

NAMES = [f"kind {label}" for label in range(CLASSES)]


def told(images):
    """A service that names classes."""
    return [NAMES[label] for label in ToyTeacher()(images).argmax(dim=1).tolist()]


@pytest.fixture(scope="module")
def result():
    return mekd.distill(
        toy_student(),
        told,
        toy_images(60, seed=1),
        "kd",
        responses="hard",
        classes=NAMES,
        budget=200,
        validation=0.2,
        recipe=Recipe(steps=20, batch_size=16),
        progress=False,
        device="cpu",
    )


def test_a_module_of_ones_own_comes_back_with_its_weights_or_as_onnx(tmp_path, result):
    images = toy_images(30, seed=5)
    logits = mekd.predict(result.student, images)
    folder = result.save(tmp_path / "student")
    assert {path.name for path in folder.iterdir()} == {"student.safetensors", "student.onnx", "student.json"}
    for loaded in (mekd.load_student(folder, toy_student(seed=7)), mekd.load_student(folder)):
        found = loaded.predict(images, batch_size=7)
        torch.testing.assert_close(found.probabilities, logits.softmax(dim=1), atol=1e-4, rtol=0)
        assert torch.equal(found.labels, logits.argmax(dim=1))
        assert found.names == [NAMES[label] for label in found.labels]
        assert str(loaded).splitlines()[1] == f"{CLASSES} classes: {', '.join(NAMES)}"
        assert "of 40 held-out real images" in str(loaded)
    about = json.loads((folder / "student.json").read_text())
    assert about["signature"] == result.signature and about["classes"] == NAMES and about["not_exported"] is None
    assert about["held_out"] == {**result.held_out._asdict(), "on": "real images"} and about["held_out"]["images"] == 40


def test_a_network_known_by_name_needs_no_module_and_reads_files(tmp_path):
    student = build("lenet5_half", 3, (3, 16, 16), seed=0).eval()
    world = {"image_shape": (3, 16, 16), "value_range": (0.0, 1.0), "num_classes": 3}
    save_student(student, tmp_path / "student", network="lenet5_half", **world)
    (tmp_path / "student" / "student.onnx").unlink()
    Image.new("RGB", (40, 20), (255, 0, 51)).save(tmp_path / "photo.png")
    loaded = mekd.load_student(tmp_path / "student")
    pixels = torch.tensor([1.0, 0.0, 0.2])[None, :, None, None].expand(1, 3, 16, 16)
    expected = student(pixels).softmax(dim=1).detach()
    for given in (tmp_path / "photo.png", [tmp_path / "photo.png"], [Image.open(tmp_path / "photo.png")], pixels):
        torch.testing.assert_close(loaded.predict(given).probabilities, expected)
    assert loaded.predict(pixels).names is None
    with pytest.raises(InputError, match=r"expected \(N, 3, 16, 16\)"):
        loaded.predict(pixels[0])
    with pytest.raises(InputError, match="this student takes 0 to 1"):
        loaded.predict(pixels * 2 - 1)


class Looks(nn.Module):
    """What no exporter follows: it looks at values."""

    def __init__(self):
        super().__init__()
        self.inner = toy_student()

    def forward(self, images):
        return self.inner(images) * (2 if float(images.sum()) > 0 else 1)


def test_what_cannot_be_exported_says_so_and_wants_its_module(tmp_path):
    world = {"image_shape": tuple(toy_images(1, seed=0).shape[1:]), "value_range": (-1.0, 1.0), "num_classes": CLASSES}
    folder = save_student(Looks(), tmp_path, **world)
    with pytest.raises(CheckpointError, match=r"weights of a .*Looks, and no ONNX model \(.+\): hand in a module"):
        mekd.load_student(folder)
    assert len(mekd.load_student(folder, Looks()).predict(toy_images(4, seed=1)).labels) == 4


def test_a_folder_without_a_whole_student_is_named(tmp_path, result):
    with pytest.raises(CheckpointError, match="holds no student"):
        mekd.load_student(tmp_path)
    model = result.save(tmp_path) / "student.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\1")
    with pytest.raises(CheckpointError, match="student.onnx is not the model that was saved here"):
        mekd.load_student(tmp_path)
    about = result.save(tmp_path, onnx=False) / "student.json"
    about.write_text(about.read_text().replace('"kind 1"', '"kind 7"'))
    with pytest.raises(CheckpointError, match="holds no student"):
        mekd.load_student(tmp_path, toy_student())
    weights = result.save(tmp_path, onnx=False) / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(CheckpointError, match="damaged"):
        mekd.load_student(tmp_path, toy_student())


def test_images_of_files_are_distilled_from(tmp_path):
    shape = tuple(toy_images(1, seed=0).shape[1:])
    for index, image in enumerate(toy_images(6, seed=3)):
        pixels = ((image.mean(dim=0) + 1) * 127.5).round().byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=20)
    settings = {"recipe": Recipe(steps=2, batch_size=8), "progress": False, "image_shape": shape}
    found = mekd.distill(toy_student(), box, tmp_path, "kd", **settings)
    assert found.ledger.total == 20 and found.image_shape == shape

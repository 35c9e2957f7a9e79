"""What a user's pipeline does to a file is kept as plain values, and done again."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models, transforms
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as F  # noqa: N812 (torchvision's own custom)

import mekd_plugin as mekd
from mekd_plugin.errors import CheckpointError, InputError
from mekd_plugin.training.image_transforms import check_transform, steps_of, transform_of
from mekd_plugin.training.saved_student import save_student

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
LOW, HIGH = -2.5, 2.6
OLD = transforms.Compose([
    transforms.Resize(20, InterpolationMode.BICUBIC),
    transforms.CenterCrop(16),
    transforms.ToTensor(),
    transforms.Normalize(MEAN, STD),
])  # fmt: skip
NEW = v2.Compose([
    v2.ToImage(),
    v2.Resize((16, 16), antialias=True),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize(MEAN, STD),
])  # fmt: skip
PRESET = models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
GREY = transforms.Compose(
    [transforms.Grayscale(), transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float32)]
)


def photograph(width, height, mode="RGB", seed=0):
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed)).byte()
    return Image.fromarray(pixels.numpy()).convert(mode)


@pytest.mark.parametrize(
    "transform", [OLD, NEW, PRESET, GREY, transforms.ToTensor()], ids=["v1", "v2", "preset", "grey", "one"]
)
def test_a_pipeline_of_plain_values_makes_the_same_of_every_image(transform):
    steps = json.loads(json.dumps(steps_of(transform)))
    again = transform_of(steps)
    for image in (photograph(30, 40), photograph(300, 260, seed=1)):
        made = again(image)
        assert type(made) is torch.Tensor and torch.equal(made, transform(image))


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (transforms.RandomCrop(16), "RandomCrop.* cannot be kept as plain values: expected Resize, CenterCrop"),
        (transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda image: image)]), "Lambda"),
        (lambda image: image, "cannot be kept as plain values"),
        (v2.ToDtype(torch.float64, scale=True), "ToDtype to torch.float64: expected torch.float32"),
    ],
)
def test_what_is_no_plain_value_is_named(transform, words):
    with pytest.raises(InputError, match=words):
        steps_of(transform)


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (transforms.Resize(16), "transform makes Image: expected a float tensor"),
        (transforms.PILToTensor(), "transform makes torch.uint8 of shape"),
        (transforms.Compose([transforms.Resize(8), transforms.ToTensor()]), r"of shape \(3, 8, 8\)"),
        (
            transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, [0.1, 0.1, 0.1])]),
            r"makes -5 to -3 of black, and the student was trained on -2.5 to 2.6",
        ),
        (transforms.ToTensor(), "makes 0 to 1 of black and white, .* perhaps a Normalize is missing"),
        (transforms.Compose([transforms.Normalize(MEAN, STD), transforms.ToTensor()]), "fails on an image"),
        (transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 2, [0.5] * 2)]), "fails on an image"),
    ],
)
def test_what_does_not_make_what_the_student_takes_is_refused(transform, words):
    with pytest.raises(InputError, match=words):
        check_transform(steps_of(transform), (3, 16, 16), (LOW, HIGH))


@pytest.mark.parametrize("steps", [[["RandomCrop", {"size": 3}]], [["Resize", {"exec": 1}]], [["Resize", {}]], [3]])
def test_only_known_steps_are_made_of_a_file(steps):
    with pytest.raises(CheckpointError, match="cannot be made"):
        transform_of(steps)


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval()


WORLD = {"image_shape": (3, 16, 16), "value_range": (LOW, HIGH), "num_classes": 4, "onnx": False}


def test_a_sharp_edge_that_overshoots_is_answered(tmp_path, student):
    bicubic = v2.Compose([
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Resize((16, 16), InterpolationMode.BICUBIC),
        v2.Normalize([0.5] * 3, [0.5] * 3),
    ])  # fmt: skip
    save_student(student, tmp_path, transform=bicubic, **{**WORLD, "value_range": (-1.0, 1.0)})
    edge = Image.new("RGB", (40, 40))
    edge.paste((255, 255, 255), (20, 0, 40, 40))
    assert bicubic(edge).max() > 1
    prepared = mekd.load_student(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))).prepare([edge])
    assert prepared.min() == -1 and prepared.max() == 1


def test_files_of_other_sizes_answer_as_tensors_resized_by_hand(tmp_path, student):
    images = [photograph(30, 40), photograph(21, 20, seed=1), photograph(64, 33, seed=2)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    save_student(student, tmp_path / "with", transform=OLD, **WORLD)
    by_hand = []
    for image in images:
        resized = F.center_crop(F.resize(image, 20, InterpolationMode.BICUBIC), 16)
        by_hand.append(
            (F.pil_to_tensor(resized) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        )
    expected = student(torch.stack(by_hand)).softmax(dim=1)
    loaded = mekd.load_student(tmp_path / "with", nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)))
    for given in ([tmp_path / f"{number}.png" for number in range(3)], images, torch.stack(by_hand)):
        torch.testing.assert_close(loaded.predict(given).probabilities, expected)

    save_student(student, tmp_path / "without", **WORLD)
    plain = mekd.load_student(tmp_path / "without", nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)))
    squeezed = [F.pil_to_tensor(image.resize((16, 16), Image.Resampling.BILINEAR)) / 255 for image in images]
    expected = student(torch.stack(squeezed) * (HIGH - LOW) + LOW).softmax(dim=1)
    torch.testing.assert_close(plain.predict(images).probabilities, expected)
    smooth = Image.linear_gradient("L").convert("RGB")  # where PIL and torch may round, not differ
    tensor = F.pil_to_tensor(smooth)[None].float()
    resized = nn.functional.interpolate(tensor, (16, 16), mode="bilinear", antialias=True) / 255
    expected = student(resized * (HIGH - LOW) + LOW).softmax(dim=1)
    torch.testing.assert_close(plain.predict([smooth]).probabilities, expected, atol=5e-3, rtol=0)


def test_a_normalisation_within_the_student_travels_in_its_model(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(transforms.Normalize(MEAN, STD), nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval()
    save_student(network, tmp_path, **{**WORLD, "value_range": (0.0, 1.0), "onnx": True})
    image = photograph(16, 16)
    expected = network(F.to_tensor(image)[None]).softmax(dim=1)
    torch.testing.assert_close(mekd.load_student(tmp_path).predict([image]).probabilities, expected, atol=1e-5, rtol=0)


def test_an_image_that_the_transform_leaves_too_large_is_named(tmp_path, student):
    shorter_side = transforms.Compose([transforms.Resize(16), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    save_student(student, tmp_path, transform=shorter_side, **WORLD)
    loaded = mekd.load_student(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)))
    with pytest.raises(
        InputError, match=r"makes \(3, 16, 32\) of an image of 60x30, and the student takes \(3, 16, 16\)"
    ):
        loaded.predict([photograph(60, 30)])

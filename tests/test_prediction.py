"""In batches that suit the images' size; what the last linear layer is given, beside the logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mekd_plugin.networks import build
from mekd_plugin.prediction import predict, predict_with_features


@pytest.mark.parametrize(("size", "count", "expected"), [(16, 300, 100), (64, 65, 22), (300, 9, 5)])
def test_large_images_go_in_small_batches_of_nearly_one_size(size, count, expected):
    """At most 128, 32 and 8 of these: and no single image is left over, which another kernel would multiply."""
    seen = []

    def look(images):
        seen.append(len(images))
        return images.flatten(1)[:, :2]

    student = nn.Sequential(nn.Identity())
    student.forward = look
    images = torch.randn(count, 1, size, size)
    assert torch.equal(predict(student, images), images.flatten(1)[:, :2])
    assert max(seen) == expected and max(seen) - min(seen) <= 1 and sum(seen) == count


@pytest.mark.parametrize("network", ["lenet5", "resnet8"])
def test_answers_do_not_depend_on_the_batches(network):
    module, images = build(network, 3, (1, 32, 32), seed=0), torch.randn(150, 1, 32, 32)
    assert torch.equal(predict(module, images), predict(module, images, batch_size=1024))


def test_features_are_what_the_last_linear_layer_is_given():
    student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Dropout(), nn.Linear(3, 2)).train()
    images = torch.randn(7, 1, 2, 2)
    logits, features = predict_with_features(student, images, batch_size=3)
    assert torch.equal(logits, predict(student, images, batch_size=3)) and student.training
    assert torch.allclose(features, student[1](images.flatten(1)).relu())
    assert torch.allclose(student[4](features), logits)


def test_without_a_layer_that_sees_each_image_once_the_logits_are_the_features():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(4, 2)

        def forward(self, images):
            return images.flatten(1)

    class Twice(Unused):
        def forward(self, images):
            return self.spare(self.spare(images.flatten(1)).repeat(1, 2))

    images = torch.randn(5, 1, 2, 2)
    for student in (nn.Flatten(), Unused(), Twice()):
        logits, features = predict_with_features(student, images)
        assert torch.equal(features, logits)

"""What the last linear layer is given, beside the logits."""

from __future__ import annotations

import torch
from torch import nn

from mekd_plugin.prediction import predict, predict_with_features


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

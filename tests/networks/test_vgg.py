from __future__ import annotations

import pytest
import torch
from torch import nn

from mekd_plugin.errors import InputError
from mekd_plugin.networks.vgg import VGG


@pytest.mark.parametrize(("depth", "convolutions"), [(11, 8), (13, 10), (19, 16)])
def test_has_the_convolutions_of_its_configuration_each_with_batch_norm(depth, convolutions):
    # The name counts the paper's three linear layers, of which one is left.
    modules = list(VGG(depth, 10, (3, 32, 32)).modules())
    assert sum(isinstance(module, nn.Conv2d) for module in modules) == convolutions == depth - 3
    assert sum(isinstance(module, nn.BatchNorm2d) for module in modules) == convolutions


@pytest.mark.parametrize(("size", "left"), [(16, 1), (32, 2), (64, 4)])
def test_shrinks_the_image_sixteen_times_before_the_average(size, left):
    network = VGG(11, 10, (1, size, size)).to("meta")
    assert network.features[:-1](torch.empty(2, 1, size, size, device="meta")).shape == (2, 512, left, left)


def test_bad_sizes_are_named():
    with pytest.raises(InputError, match="depth=12: expected one of 11, 13, 19"):
        VGG(12, 10, (3, 32, 32))
    with pytest.raises(InputError, match=r"image_shape \(1, 8, 8\): four poolings need images of at least 16x16"):
        VGG(11, 10, (1, 8, 8))

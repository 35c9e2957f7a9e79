from __future__ import annotations

import pytest
import torch
from torch import nn

from mekd_plugin.errors import InputError
from mekd_plugin.networks.lenet import lenet5, lenet5_half


def weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_lenet5_has_the_classic_number_of_weights():
    # 156 + 2416 + 48,120 + 10,164 + 850
    assert weights(lenet5(10, (1, 32, 32))) == 61_706


def test_the_half_has_half_as_many_maps_and_units():
    # 3*26 + 8*(75 + 1) + (8*25 + 1)*60 + 61*42 + 43*10
    assert weights(lenet5_half(10, (1, 32, 32))) == 78 + 608 + 12_060 + 2_562 + 430


@pytest.mark.parametrize(("size", "left"), [(16, 1), (28, 4), (32, 5)])
def test_the_linear_layers_follow_the_image_size(size, left):
    network = lenet5(10, (3, size, size)).to("meta")
    assert network.features(torch.empty(1, 3, size, size, device="meta")).shape == (1, 16, left, left)


def test_images_that_are_too_small_are_named():
    with pytest.raises(InputError, match=r"image_shape \(1, 8, 16\): .*at least 16x16 pixels; resize them, or take"):
        lenet5(10, (1, 8, 16))

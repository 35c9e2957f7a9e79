from __future__ import annotations

import torch
from torch import nn

from mekd_plugin.networks.mobilenet import MobileNetV2


def test_has_the_papers_seventeen_inverted_residuals_of_which_ten_add_their_input():
    network = MobileNetV2(10, (3, 32, 32))
    residuals = [module.residual for module in network.features if hasattr(module, "residual")]
    assert len(residuals) == 17 and sum(residuals) == 10


def test_three_by_three_convolutions_after_the_first_are_depthwise():
    spatial = [
        m for m in MobileNetV2(10, (3, 32, 32)).modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]
    assert len(spatial) == 18
    assert all(m.groups == m.in_channels == m.out_channels for m in spatial[1:])


def test_shrinks_the_image_eight_times():
    network = MobileNetV2(10, (1, 32, 32)).to("meta")
    assert network.features[:-1](torch.empty(2, 1, 32, 32, device="meta")).shape == (2, 640, 4, 4)


def test_is_small():
    assert sum(parameter.numel() for parameter in MobileNetV2(100, (3, 32, 32)).parameters()) < 700_000

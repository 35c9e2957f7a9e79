from __future__ import annotations

import pytest
import torch
from torch import nn

from mekd_plugin.errors import InputError
from mekd_plugin.networks.resnet import ResNet


@pytest.mark.parametrize("depth", [8, 20, 32, 56, 110])
def test_depth_counts_the_layers_with_weights_on_the_main_path(depth):
    network = ResNet(depth, 10, (3, 32, 32))
    main = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in name
    ]
    assert len(main) == depth


def test_resnet20_has_the_papers_number_of_weights():
    # 0.27 M in the paper, table 6; the two 1x1 shortcuts with their batch norms are 16*32 + 32*64 + 2*(32 + 64) more.
    weights = sum(parameter.numel() for parameter in ResNet(20, 10, (3, 32, 32)).parameters())
    assert weights == 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)


def test_shrinks_the_image_four_times():
    network = ResNet(8, 10, (1, 32, 32)).to("meta")
    features = network.blocks(network.conv(torch.empty(2, 1, 32, 32, device="meta")))
    assert features.shape == (2, 64, 8, 8)


@pytest.mark.parametrize("depth", [2, 9, 18])
def test_another_depth_is_an_error(depth):
    with pytest.raises(InputError, match=f"depth={depth}: expected 6n \\+ 2, e.g. 8, 20"):
        ResNet(depth, 10, (3, 32, 32))

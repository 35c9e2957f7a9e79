from __future__ import annotations

import pytest
import torch
from torch import nn

from mekd_plugin.errors import InputError, UnknownName
from mekd_plugin.networks import build, network_names

SHIPPED = {
    *("resnet8", "resnet20", "resnet32", "resnet56", "resnet110"),
    *("vgg11", "vgg13", "vgg19", "mobilenet_v2", "lenet5", "lenet5_half"),
}


def test_every_promised_network_is_there():
    assert set(network_names()) == SHIPPED


@pytest.mark.parametrize("image_shape", [(1, 16, 16), (3, 32, 32), (1, 28, 28), (3, 64, 64), (1, 20, 24)], ids=str)
@pytest.mark.parametrize("name", network_names())
def test_every_network_answers_logits_for_every_image_shape(name, image_shape):
    network = build(name, 7, image_shape, seed=0).to("meta")
    assert network.training
    logits = network(torch.empty(2, *image_shape, device="meta"))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "lenet5_half"])
def test_every_weight_takes_part_and_the_logits_are_finite(name):
    network = build(name, 5, (1, 16, 16), seed=0)
    logits = network(torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert logits.isfinite().all()
    logits.square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_seed_decides_the_weights_and_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    first, again, other = (build("resnet8", 10, (1, 16, 16), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, again) and not same(first, other)


def test_without_a_seed_the_global_state_decides():
    torch.manual_seed(3)
    first, second = (build("lenet5_half", 10, (1, 16, 16)) for _ in range(2))
    assert not same(first, second)
    assert same(first, build("lenet5_half", 10, (1, 16, 16), seed=3))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_torchvisions_classifiers_take_other_channels_than_three(name):
    network = build(f"torchvision:{name}", 6, (1, 32, 32), seed=0).to("meta")
    assert network(torch.empty(2, 1, 32, 32, device="meta")).shape == (2, 6)  # a tensor in training mode too


def test_a_vision_transformer_is_made_for_the_image_size():
    network = build("torchvision:vit_b_32", 6, (3, 32, 32)).to("meta")
    assert network(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 6)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "def linear(*, num_classes, image_shape):\n"
        "    c, h, w = image_shape\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, num_classes))\n"
        "def wordless():\n"
        "    return torch.nn.Identity()\n"
        "def nonsense(*, num_classes, image_shape):\n"
        "    return 'a network'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_ones_own_factory_is_called_with_classes_and_image_shape(own_module):
    network = build("own_networks:linear", 4, (2, 3, 5), seed=0)
    assert network(torch.zeros(1, 2, 3, 5)).shape == (1, 4)
    assert same(network, build("own_networks:linear", 4, (2, 3, 5), seed=0))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (
            "resnett20",
            UnknownName,
            "unknown network 'resnett20': did you mean 'resnet20'\\? Known: resnet8, .*torchvision:NAME",
        ),
        ("zzz", UnknownName, "unknown network 'zzz': Known: resnet8"),
        ("torchvision:resnet17", UnknownName, "unknown torchvision classifier 'resnet17': did you mean 'resnet1"),
        (
            "torchvision:alexnet",
            InputError,
            r"torchvision:alexnet does not take images of shape \(1, 16, 16\): .*resize",
        ),
        ("no_such_package:factory", UnknownName, "No module named 'no_such_package'; expected package.module:factory"),
        ("own_networks:missing", UnknownName, "has no attribute 'missing'"),
        (":factory", UnknownName, "expected package.module:factory"),
        (
            "own_networks:wordless",
            InputError,
            "own_networks:wordless fails: TypeError: .*expected a function that takes num_classes= and image_shape=",
        ),
        ("own_networks:nonsense", InputError, "own_networks:nonsense returned str: expected a torch.nn.Module"),
    ],
)
def test_names_that_lead_nowhere_are_explained(own_module, name, error, words):
    with pytest.raises(error, match=words):
        build(name, 10, (1, 16, 16))


@pytest.mark.parametrize(
    ("num_classes", "image_shape", "words"),
    [
        (1, (1, 16, 16), "num_classes=1: expected at least 2 classes"),
        (10, (16, 16), r"image_shape=\(16, 16\): expected \(channels, height, width\)"),
        (10, (1, 0, 16), "each at least 1"),
    ],
)
def test_bad_sizes_are_named(num_classes, image_shape, words):
    with pytest.raises(InputError, match=words):
        build("resnet8", num_classes, image_shape)

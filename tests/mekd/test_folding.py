"""Folding is exact: outputs and gradients in float64 to 1e-10, at every size, in each of its ways through the code."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.mekd.folding import fold, training_form, upsample_conv_weight
from mekd_plugin.networks.generators import Generator, NoiseGenerator

CASES = [
    pytest.param((1, 16, 16), 10, 0, 8, 1e-5, id="digits"),
    pytest.param((1, 32, 32), 10, 6, 8, 1e-5, id="style"),
    pytest.param((3, 32, 32), 10, 0, 8, 0.8, id="colour, the paper's eps"),
    pytest.param((3, 20, 12), 5, 3, 4, 1e-5, id="not square"),
    pytest.param((3, 31, 18), 5, 3, 4, 1e-5, id="sizes that 4 does not divide"),
    pytest.param((1, 4, 4), 2, 0, 1, 1e-5, id="smallest"),
    pytest.param((1, 8, 8), 100, 0, 4, 1e-5, id="many classes: the first convolution stays"),
]


def trained_generator(
    image_shape: tuple[int, int, int], classes: int, style_dim: int, width: int, eps: float
) -> Generator:
    """A float64 generator none of whose batch-norm statistics, scales and shifts are at their initial values."""
    torch.manual_seed(0)
    generator = Generator(classes, image_shape, style_dim=style_dim, width=width, eps=eps).double()
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.2, 3.0)
            nn.init.normal_(module.weight, 1.0, 0.5)
            nn.init.normal_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, (1 / (9 * module.in_channels)) ** 0.5)
            nn.init.normal_(module.bias)
    return generator.eval()


def latents(generator: Generator, count: int = 5) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(count, generator.latent_dim, generator=rng, dtype=torch.float64).requires_grad_()


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def test_the_weight_worked_by_hand() -> None:
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1] = torch.tensor([1.0, 10.0, 100.0])  # one row: w0, w1, w2 along the width
    folded = upsample_conv_weight(weight)
    row = torch.tensor([100.0, 110.0, 11.0, 1.0])  # w2, w1 + w2, w0 + w1, w0
    assert torch.equal(folded[0, 0], torch.stack([0 * row, row, row, 0 * row]))


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 5), (8, 8)])
def test_upsampling_and_convolution_are_one_transposed_convolution(size: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, generator=rng, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(images, scale_factor=2), weight, bias, padding=1)
    actual = F.conv_transpose2d(images, upsample_conv_weight(weight), bias, stride=2, padding=1)
    close(actual, expected)
    cotangent = torch.randn(expected.shape, generator=rng, dtype=torch.float64)
    close(torch.autograd.grad(actual, weight, cotangent)[0], torch.autograd.grad(expected, weight, cotangent)[0])


@pytest.mark.parametrize("shape", [(4, 3, 4, 4), (4, 3, 3), (4, 3, 3, 1)])
def test_another_kernel_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected a 3x3 convolution's, \(out, in, 3, 3\)"):
        upsample_conv_weight(torch.zeros(shape))


@pytest.mark.parametrize(("image_shape", "classes", "style_dim", "width", "eps"), CASES)
def test_folded_outputs_and_gradients(
    image_shape: tuple[int, int, int], classes: int, style_dim: int, width: int, eps: float
) -> None:
    generator = trained_generator(image_shape, classes, style_dim, width, eps)
    folded, latent = fold(generator), latents(generator)
    expected, actual = generator(latent), folded(latent)
    close(actual, expected)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (expected_gradient,) = torch.autograd.grad(expected, latent, cotangent)
    (actual_gradient,) = torch.autograd.grad(actual, latent, cotangent)
    assert expected_gradient.abs().max() > 1e-3
    close(actual_gradient, expected_gradient)


def test_the_first_convolution_goes_where_it_is_cheaper() -> None:
    def convolutions(classes: int) -> int:
        folded = fold(trained_generator((1, 8, 8), classes, 0, 4, 1e-5))
        return sum(isinstance(module, nn.ConvTranspose2d) for module in folded.modules())

    assert convolutions(10) == 1
    assert convolutions(100) == 2


def test_folded_is_frozen_in_eval_mode_and_channels_last() -> None:
    generator = trained_generator((3, 16, 16), 10, 0, 8, 1e-5).float()
    generator.train()
    before = copy.deepcopy(generator.state_dict())
    folded = fold(generator)
    assert generator.training and all(parameter.requires_grad for parameter in generator.parameters())
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())
    nn.Sequential(folded).train()
    assert not any(module.training for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    latent = latents(generator).float()
    images = folded(latent)
    assert images.dtype == torch.float32 and images.is_contiguous(memory_format=torch.channels_last)
    close(images, generator.eval()(latent), 1e-5)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.zero_()
    assert torch.equal(folded(latent), images)  # a copy: it does not follow the generator


@pytest.mark.parametrize(
    ("index", "layer", "message"),
    [
        (0, nn.Linear(10, 128, bias=False), "no weight or no bias"),
        (1, nn.Flatten(), "Flatten as its second layer: expected Unflatten"),
        (2, nn.BatchNorm2d(8, track_running_stats=False), "only a batch norm that keeps running statistics folds"),
        (5, nn.BatchNorm2d(8, affine=False), "no weight or no bias"),
    ],
)
def test_other_layers_are_refused(index: int, layer: nn.Module, message: str) -> None:
    generator = Generator(10, (1, 16, 16), width=4)
    generator.layers[index] = layer
    with pytest.raises(InputError, match=message):
        fold(generator)


def test_a_batch_norm_behind_no_convolution_is_refused() -> None:
    generator = NoiseGenerator(6, num_classes=3, image_shape=(1, 9, 9), width=4)  # its last one is behind the crop
    with pytest.raises(InputError, match="only one behind a convolution folds"):
        fold(generator)


def test_folding_and_both_forms_run_on_the_meta_device() -> None:
    with torch.device("meta"):
        generator = Generator(10, (1, 16, 16), width=4)
        latent = torch.empty(3, 10)
    assert fold(generator)(latent).shape == (3, 1, 16, 16)
    assert training_form(generator)(latent).device.type == "meta"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("image_shape", "classes", "style_dim", "width", "eps"), CASES)
def test_the_training_form_has_the_same_outputs_gradients_and_statistics(
    image_shape: tuple[int, int, int], classes: int, style_dim: int, width: int, eps: float, training: bool
) -> None:
    generator = trained_generator(image_shape, classes, style_dim, width, eps).train(training)
    other = copy.deepcopy(generator)
    fast, latent = training_form(other), latents(generator)
    expected, actual = generator(latent), fast(latent)
    close(actual, expected)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected_gradients = torch.autograd.grad(expected, [latent, *generator.parameters()], cotangent)
    actual_gradients = torch.autograd.grad(actual, [latent, *fast.parameters()], cotangent)
    for actual_gradient, expected_gradient in zip(actual_gradients, expected_gradients, strict=True):
        close(actual_gradient, expected_gradient)
    for actual_buffer, expected_buffer in zip(other.buffers(), generator.buffers(), strict=True):
        close(actual_buffer, expected_buffer)


def test_the_training_form_is_the_generator_under_its_own_names() -> None:
    generator = trained_generator((1, 16, 16), 10, 0, 4, 1e-5)
    fast = training_form(generator)
    assert list(fast.state_dict()) == list(generator.state_dict())
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    assert not any(parameter.any() for parameter in generator.parameters())
    fast.train()
    assert all(layer.training for layer in generator.layers)

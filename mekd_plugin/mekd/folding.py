"""Faster forms of the generator that compute exactly the same function.

Three identities of linear algebra, none of them an approximation (floating-point rounding aside):

- nearest upsampling by 2 followed by a 3x3 convolution of padding 1 is one 4x4 transposed convolution of stride 2 and
  padding 1, with 2.25 times fewer multiply-adds, at the borders too (:func:`upsample_conv_weight`);
- in eval mode a batch norm is a scale and a shift of each channel, and folds into the layer **before** it (into the
  one after it would be wrong at the borders, where the convolution pads with zeros and not with the shift);
- up to its first activation the generator is linear in the latent, so its first convolution folds into the linear
  layer wherever that takes fewer multiply-adds.

:func:`fold` uses all three for stage 2, where G is frozen; :func:`training_form` uses the first for stage 1.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.modes import in_rehearsal
from mekd_plugin.networks.generators import CentreCrop, Generator

__all__ = ["FoldedGenerator", "TrainingForm", "fold", "training_form", "upsample_conv_weight"]


def upsample_conv_weight(weight: Tensor) -> Tensor:
    """The 4x4 transposed convolution that equals nearest upsampling x2 and then the 3x3 convolution ``weight``.

    ``conv2d(upsample(x), w, padding=1) == conv_transpose2d(x, upsample_conv_weight(w), stride=2, padding=1)``.
    Along one axis an output at an even place sees ``x[i-1]`` by ``w0`` and ``x[i]`` by ``w1 + w2``; one at an odd place
    sees ``x[i]`` by ``w0 + w1`` and ``x[i+1]`` by ``w2``. Linear in ``weight``, and differentiable.

    Shapes:
        ``(out, in, 3, 3)`` -> ``(in, out, 4, 4)``.

    Raises:
        InputError: for another kernel size.
    """
    if weight.ndim != 4 or tuple(weight.shape[2:]) != (3, 3):
        raise InputError(f"weight of shape {tuple(weight.shape)}: expected a 3x3 convolution's, (out, in, 3, 3)")
    for axis in (2, 3):
        before, middle, after = weight.unbind(axis)
        weight = torch.stack([after, middle + after, before + middle, before], axis)
    return weight.transpose(0, 1)


class FoldedGenerator(nn.Module):
    """What :func:`fold` makes: latent ``(N, latent_dim)`` -> images, always in eval mode, nothing in it to train."""

    def __init__(self, layers: nn.Sequential, latent_dim: int, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers, self.latent_dim, self.image_shape = layers, latent_dim, tuple(image_shape)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: it holds no layer that could train."""
        return super().train(False)

    def forward(self, latent: Tensor) -> Tensor:
        images: Tensor = self.layers(latent)
        return images


class TrainingForm(nn.Module):
    """What :func:`training_form` makes: G's own layers under G's own names, run with fewer multiply-adds."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.layers, self.latent_dim, self.image_shape = generator.layers, generator.latent_dim, generator.image_shape

    def forward(self, latent: Tensor) -> Tensor:
        hidden, upsampled = latent, False
        for layer in self.layers:
            if isinstance(layer, nn.Upsample):
                upsampled = True
            elif upsampled and isinstance(layer, nn.Conv2d):
                # The 4x4 weight is new in every step, so that its memory format does not say what the layers expect.
                if layer.weight.is_contiguous(memory_format=torch.channels_last):
                    hidden = hidden.contiguous(memory_format=torch.channels_last)
                weight = upsample_conv_weight(layer.weight)
                hidden = F.conv_transpose2d(hidden, weight, layer.bias, stride=2, padding=1)
                upsampled = False
            else:
                hidden = layer(hidden)
        return hidden


def training_form(generator: Generator) -> TrainingForm:
    """A module with the generator's own weights, outputs and gradients that trains faster.

    It shares every parameter and buffer with ``generator``, so training either trains both, and their state
    dictionaries are the same. Batch norms work as ever, in either mode.

    Shapes:
        latent ``(N, latent_dim)`` -> images ``(N, channels, height, width)`` in [-1, 1].
    """
    return TrainingForm(generator)


@torch.no_grad()
def fold(generator: Generator) -> FoldedGenerator:
    """A frozen copy of the generator in eval mode, with the same outputs and latent gradients, but faster.

    Folding is done in float64 and rounded once, to the generator's own dtype; the copy is on the same device, its
    weights in channels_last, and does not follow later changes of ``generator``.

    Shapes:
        latent ``(N, latent_dim)`` -> images ``(N, channels, height, width)`` in [-1, 1].

    Raises:
        InputError: a generator whose layers are not those of :class:`Generator`.
    """
    reference = next(generator.parameters())
    # Not every accelerator has float64 (Apple's does not), so the folding is done on the CPU.
    place = reference.device if reference.device.type == "meta" else torch.device("cpu")
    linear, unflatten, norm, *rest = copy.deepcopy(generator.layers).to(place, torch.float64)
    if not isinstance(unflatten, nn.Unflatten):
        raise InputError(f"a generator with {type(unflatten).__name__} as its second layer: expected Unflatten")
    weight, bias = _weight_and_bias(linear)
    scale, shift = _scale_and_shift(norm)
    # A table of latent_dim + 1 images: what each latent coordinate adds, and last what is there without any.
    table = torch.cat([weight.T, bias[None]]).unflatten(1, tuple(unflatten.unflattened_size)) * _by_channel(scale)
    table[-1] += _by_channel(shift)

    layers: list[nn.Module] = []
    for index, layer in enumerate(rest):
        if isinstance(layer, nn.Conv2d):
            weight, bias = _weight_and_bias(layer)
            if isinstance(rest[index + 1], nn.BatchNorm2d):
                scale, shift = _scale_and_shift(rest[index + 1])
                weight, bias = weight * scale[:, None, None, None], bias * scale + shift
            upsampled = isinstance(rest[index - 1], nn.Upsample)
            if upsampled and not layers and _is_cheaper_inside(table, layer.out_channels):
                table = _table_after(table, weight)
                table[-1] += _by_channel(bias)
            else:
                layers.append(_convolution(weight, bias, upsampled))
        elif isinstance(layer, nn.LeakyReLU):
            # In place it saves a page-faulting allocation; right after the linear layer it would write into a view.
            layers.append(nn.LeakyReLU(layer.negative_slope, inplace=bool(layers)))
        elif isinstance(layer, nn.Tanh | CentreCrop):
            layers.append(layer)
        elif isinstance(layer, nn.BatchNorm2d) and not isinstance(rest[index - 1], nn.Conv2d):
            raise InputError(f"a generator with {layer} behind {rest[index - 1]}: only one behind a convolution folds")

    sequence = nn.Sequential(*_linear(table), *layers)
    sequence.to(device=reference.device, dtype=reference.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return FoldedGenerator(sequence, generator.latent_dim, generator.image_shape)


class _AsChannelsLast(nn.Module):
    """``(N, height * width * channels)`` -> ``(N, channels, height, width)`` in channels_last, without a copy."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.sizes = (height, width, channels)

    def forward(self, flat: Tensor) -> Tensor:
        images: Tensor = flat.unflatten(1, self.sizes)
        return images.permute(0, 3, 1, 2)


def _by_channel(values: Tensor) -> Tensor:
    """``(channels,)`` -> ``(channels, 1, 1)``, to meet images."""
    return values[:, None, None]


def _weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """The two parameters that every layer of a generator has."""
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
        raise InputError(f"a generator with {layer}, which has no weight or no bias: only Generator's layers fold")
    return weight.detach(), bias.detach()


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a batch norm does in eval mode: ``scale * x + shift`` for each channel."""
    weight, bias = _weight_and_bias(norm)
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        raise InputError(f"a generator with {norm}: only a batch norm that keeps running statistics folds")
    scale = weight * (norm.running_var + norm.eps).rsqrt()
    return scale, bias - norm.running_mean * scale


def _convolution(weight: Tensor, bias: Tensor, upsampled: bool) -> nn.Module:
    """The layer of a 3x3 convolution ``(out, in, 3, 3)``, with the upsampling before it where there is one."""
    out_channels, in_channels = weight.shape[:2]
    layer: nn.Conv2d | nn.ConvTranspose2d
    if upsampled:
        layer = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        weight = upsample_conv_weight(weight)
    else:
        layer = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def _linear(table: Tensor) -> tuple[nn.Module, nn.Module]:
    """The linear layer of a table of images ``(latent_dim + 1, channels, height, width)``, and its outputs' shape."""
    rows = table.permute(0, 2, 3, 1).flatten(1)
    linear = nn.Linear(len(rows) - 1, rows.shape[1], device="meta")  # its own initial weights would be thrown away
    linear.weight, linear.bias = nn.Parameter(rows[:-1].T.contiguous()), nn.Parameter(rows[-1].clone())
    channels, height, width = table.shape[1:]
    return linear, _AsChannelsLast(channels, height, width)


def _table_after(table: Tensor, weight: Tensor) -> Tensor:
    """``table`` after upsampling and the convolution ``weight``, which takes most of the folding's time."""
    if in_rehearsal():
        return table.new_zeros(len(table), len(weight), *(2 * size for size in table.shape[2:]))
    return F.conv_transpose2d(table, upsample_conv_weight(weight), stride=2, padding=1)


def _is_cheaper_inside(table: Tensor, out_channels: int) -> bool:
    """Whether an upsampling convolution takes fewer multiply-adds within ``table``'s linear layer than after it."""
    latent_dim, (channels, height, width) = len(table) - 1, table.shape[1:]
    outputs = out_channels * 4 * height * width
    return latent_dim * outputs < latent_dim * channels * height * width + outputs * 4 * channels
